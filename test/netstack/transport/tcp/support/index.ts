export * from './endpoint.ts';
export * from './network.ts';
export * from './scripted-peer.ts';
