export * from './change-notice.ts';
export * from './packet-send-program.ts';
