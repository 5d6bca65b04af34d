export * from './link-device.ts';
export * from './stream-framing.ts';
export * from './stream-link.ts';
export * from './tap-link.ts';
