import { arePointsArmed, reach } from '../common/index.ts';

/** Handlers with two named points each: `PROCESS.handle.COMMAND` before, `PROCESS.handled.COMMAND` when it acted and has not answered. */
export function withPoints<H extends object>(process: string, handlers: H): H {
  if (!arePointsArmed()) return handlers;
  const wrapped = Object.entries(handlers).map(([name, handler]) => [
    name,
    async (args: object) => {
      reach(`${process}.handle.${name}`);
      const result = await (handler as (args: object) => unknown)(args);
      reach(`${process}.handled.${name}`);
      return result;
    },
  ]);
  return Object.fromEntries(wrapped) as H;
}
