export * from './commands.ts';
export * from './disk.ts';
export * from './disk-service.ts';
