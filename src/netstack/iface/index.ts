export * from './transport-interface.ts';
