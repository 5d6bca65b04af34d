export * from './control-program.ts';
