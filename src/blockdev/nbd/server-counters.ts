/** What a connection counts; added up by the server. */
export interface TransmissionCounters {
  reads: number;
  writes: number;
  flushes: number;
  trims: number;
  writeZeroes: number;
  blockStatus: number;
  caches: number;
  bytesRead: number;
  bytesWritten: number;
  /** Requests answered with an error of the device. */
  deviceErrors: number;
  /** Requests that were against the protocol or the export's limits. */
  refusedRequests: number;
}

export const newCounters = (): TransmissionCounters => ({
  reads: 0,
  writes: 0,
  flushes: 0,
  trims: 0,
  writeZeroes: 0,
  blockStatus: 0,
  caches: 0,
  bytesRead: 0,
  bytesWritten: 0,
  deviceErrors: 0,
  refusedRequests: 0,
});
