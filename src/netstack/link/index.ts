export * from './link-device.ts';
