/** The answering side of the control program [305]: every word of GuestCommands. */
import type { GuestCommands, GuestEvents, Handlers } from '../../channel/index.ts';
import { ChannelServer, withPoints } from '../../channel/index.ts';
import { collectGarbage } from '../../common/index.ts';
import { GuestError } from '../errors.ts';
import type { Guest } from '../guest.ts';
import { selfCheck } from '../network/self-check.ts';
import { changedFiles } from './changed-files.ts';
import { AgentFiles, AgentRuns } from './files.ts';

const MAX_SELF_CHECK_ROUNDS = 20;
const MAX_SELF_CHECK_CONNECTIONS = 256;

const VERSION = '1.0';

/** `shutdown` is called after the answer to `guest-shutdown` went out. */
export function createAgent(guest: Guest, shutdown: () => void): ChannelServer<GuestCommands, GuestEvents> {
  const files = new AgentFiles(guest.tree);
  const runs = new AgentRuns();
  const handlers: Handlers<GuestCommands> = {
    'guest-ping': () => ({}),
    'guest-sync': ({ id }) => id,
    'guest-info': () => ({
      version: VERSION,
      supported_commands: Object.keys(handlers).map((name) => ({ name, enabled: true })),
    }),
    'guest-exec': ({ path, arg = [] }) => {
      if (!path.startsWith('/') || !path.endsWith('.mjs')) {
        throw new GuestError('not-executable', `${path} is not a module of this guest`, {
          remedy:
            'a partition of kind process runs modules: give the absolute path of a .mjs that exports run(guest, arguments)',
        });
      }
      return { pid: runs.start((output) => guest.runModule(path, arg, output)) };
    },
    'guest-exec-status': ({ pid }) => runs.status(pid),
    'guest-fsfreeze-freeze': () => guest.tree.freeze(),
    'guest-fsfreeze-thaw': () => guest.thaw(),
    'guest-fsfreeze-status': () => (guest.tree.frozen ? 'frozen' : 'thawed'),
    'guest-file-open': ({ path, mode }) => files.open(path, mode),
    'guest-file-read': ({ handle, count }) => files.read(handle, count),
    'guest-file-write': ({ handle, 'buf-b64': data }) => files.write(handle, data),
    'guest-file-close': async ({ handle }) => {
      await files.close(handle);
      return {};
    },
    'guest-network-get-interfaces': () => guest.network.interfaces(),
    'guest-shutdown': () => {
      setImmediate(shutdown);
      return {};
    },
    'changeover-status': () => guest.status(),
    'changeover-patch-results': () => guest.patchResults,
    'changeover-application-load': ({ limitMs }) => guest.loadApplication(limitMs),
    'changeover-application-start': ({ timeoutMs }) => guest.startApplication(timeoutMs),
    'changeover-address-take': ({ address, gateway }) => {
      guest.network.take(address, gateway);
      return {};
    },
    'changeover-address-prepare': ({ from, to }) => {
      guest.network.prepare(from, to);
      return {};
    },
    'changeover-address-alter': ({ from, to }) => ({ connections: guest.network.alter(from, to) }),
    'changeover-collect': ({ young }) => {
      collectGarbage(young ? 'young' : 'all');
      return {};
    },
    'changeover-announce': () => {
      guest.network.announce();
      return {};
    },
    'changeover-quiesce': ({ budgetMs, all, freeze }) =>
      guest.quiesce(budgetMs, all === true, freeze === true),
    'changeover-freeze-idle': ({ most }) => guest.network.freezeIdle(most),
    'changeover-resume': ({ reclaim }) => ({ reclaimed: guest.resume(reclaim === true) }),
    'changeover-connections-export': async ({ barrier, timeoutMs, flows }) => ({
      connections: await guest.exportConnections(barrier, timeoutMs, flows),
      neighbors: guest.network.neighbors(),
    }),
    'changeover-wind-down': async ({ flows, barrier, timeoutMs }) => ({
      ended: await guest.network.windDown(flows, barrier, timeoutMs),
    }),
    'changeover-changed-files': ({ sinceMs, limit, under }) =>
      changedFiles(guest.tree, sinceMs, limit, under),
    'changeover-connections-import': ({ connections, neighbors }) => {
      guest.network.learn(neighbors ?? []);
      return guest.network.import(connections);
    },
    'changeover-self-check': async ({ rounds, connections }) => {
      const sum = { requests: 0, durationMs: 0, lastRoundMs: 0 };
      for (let i = 0; i < Math.min(rounds, MAX_SELF_CHECK_ROUNDS); i++) {
        const round = await selfCheck(Math.min(connections, MAX_SELF_CHECK_CONNECTIONS), 4);
        sum.requests += round.requests;
        sum.durationMs += round.durationMs;
        sum.lastRoundMs = round.durationMs;
      }
      collectGarbage('all');
      return sum;
    },
    'changeover-network-figures': () => guest.network.figures(),
    'changeover-connections': () => ({ connections: guest.network.connectionList() }),
  };
  const server = new ChannelServer<GuestCommands, GuestEvents>(withPoints('guest', handlers));
  guest.onPhase((phase, reason) => {
    server.broadcast('PHASE', reason === undefined ? { phase } : { phase, reason });
  });
  guest.console.on((stream, line) => server.broadcast('CONSOLE', { stream, line }));
  return server;
}
