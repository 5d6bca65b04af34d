export * from './clock.ts';
export * from './collect-young.ts';
export * from './errors.ts';
export * from './log.ts';
export * from './points.ts';
export * from './program.ts';
export * from './random.ts';
export * from './turns.ts';
