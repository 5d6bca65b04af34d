export * from './calibration.ts';
export * from './environment.ts';
export * from './forecast.ts';
export * from './phase.ts';
export * from './record.ts';
export * from './run.ts';
export * from './step.ts';
