export * from './mirror-device.ts';
export * from './mirror-map.ts';
