export * from './application.ts';
export * from './fs-shim.ts';
export * from './module-hooks.ts';
export * from './unpack.ts';
