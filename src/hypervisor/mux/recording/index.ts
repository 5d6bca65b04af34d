export * from './request-recorder.ts';
