export { installDgramOverride, StackDatagramSocket } from './dgram.ts';
export type { FaceConnectOptions, FaceHooks, FaceListenOptions } from './net-face.ts';
export { NetFace } from './net-face.ts';
export type { NetOverride, OverrideOptions } from './override.ts';
export { installNetOverride } from './override.ts';
export type { Flow, Quiesced, RequestState, TrackedConnection, TrackerOptions } from './request-tracker.ts';
export { RequestTracker } from './request-tracker.ts';
export { connectOn, StackServer } from './server.ts';
export { StackSocket } from './socket.ts';
