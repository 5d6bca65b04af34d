export * from './malware.ts';
export * from './preparation.ts';
