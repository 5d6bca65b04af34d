export * from './database.ts';
export * from './document-store.ts';
export * from './journal-store.ts';
export * from './patch-table-store.ts';
export * from './role-store.ts';
