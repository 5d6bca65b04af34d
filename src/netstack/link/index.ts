export * from './impairments.ts';
export * from './link-device.ts';
export * from './link-wrapper.ts';
export * from './memory-link.ts';
export * from './stream-framing.ts';
export * from './stream-link.ts';
export * from './tap-link.ts';
export * from './tracer-link.ts';
