/** What the command line needs of the daemon. The heavy parts are loaded by whoever calls them. */
export type { NetworkView, PartitionFigures } from './control/network.ts';
export type { RecordingView } from './control/recordings.ts';
export type * from './control/views.ts';
