export * from './errors.ts';
export * from './event-hub.ts';
export * from './openapi.ts';
export * from './route.ts';
export * from './server.ts';
