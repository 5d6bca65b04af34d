export * from './endpoint.ts';
export * from './network.ts';
