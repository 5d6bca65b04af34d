export { NbdClient, type NbdClientOptions, type NbdClientState } from './client.ts';
export { type ExportInfo, NbdClientError, type NbdClientErrorCode } from './client-handshake.ts';
export { type ListedExport, listNbdExports } from './client-list.ts';
export {
  type NbdCounters,
  NbdServer,
  NbdServerError,
  type NbdServerErrorCode,
  type NbdServerOptions,
} from './server.ts';
