export { type NbdCounters, NbdServer, NbdServerError, type NbdServerOptions } from './server.ts';
