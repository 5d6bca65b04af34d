export type { FaceConnectOptions, FaceHooks, FaceListenOptions } from './net-face.ts';
export { NetFace } from './net-face.ts';
export type { NetOverride, OverrideOptions } from './override.ts';
export { installNetOverride } from './override.ts';
export { connectOn, StackServer } from './server.ts';
export { StackSocket } from './socket.ts';
