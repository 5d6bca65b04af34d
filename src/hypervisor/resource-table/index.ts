export * from './resource-table.ts';
