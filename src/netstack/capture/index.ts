export * from './capture-link.ts';
export * from './capture-sink.ts';
export type { CaptureDirection, CaptureInterface } from './pcapng-blocks.ts';
export * from './pcapng-writer.ts';
export * from './ring-sink.ts';
export * from './split-capture.ts';
