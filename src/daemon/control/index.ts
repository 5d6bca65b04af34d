export * from './daemon.ts';
export * from './person-log.ts';
export * from './routes.ts';
export * from './run-control.ts';
export * from './surface.ts';
export * from './views.ts';
