/** The route table of the API. */
import { isAbsolute } from 'node:path';
import { PROCEDURES, STRATEGIES } from '../../patch/index.ts';
import type { ApiSchema, Route } from '../api/index.ts';
import { ApiError } from '../api/index.ts';
import type { CaptureRequest, HistoryRequest } from './captures.ts';
import { networkRoutes } from './network-routes.ts';
import type { DaemonSurface } from './surface.ts';

const DEFAULT_CONSOLE_BYTES = 64 * 1024;

const TEXT: ApiSchema = { type: 'string' };
const anything = (description: string): ApiSchema => ({
  type: 'object',
  description,
  additionalProperties: true,
});

function body(properties: Readonly<Record<string, ApiSchema>>, required: readonly string[] = []): ApiSchema {
  return { type: 'object', properties, required, additionalProperties: false };
}

const RUN = anything('RunView: record, phase, steps, cut, rollback, reason, working, error; see docs/cli.md');
const PARTITION = anything('PartitionView; see docs/cli.md');
const PATCH = anything('RegisteredPatch: a row of the patch table; see docs/patching.md');

function whole(query: URLSearchParams, name: string): number | undefined {
  const text = query.get(name);
  if (text === null) return undefined;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new ApiError('bad-request', `${name} is ${JSON.stringify(text)}, it must be a whole number from 0`);
  }
  return value;
}

function absolute(path: string, what: string): string {
  if (isAbsolute(path)) return path;
  throw new ApiError('bad-request', `${what} is ${JSON.stringify(path)}, it must be an absolute path`);
}

function general(d: DaemonSurface): Route[] {
  return [
    {
      method: 'GET',
      path: '/status',
      summary: 'Everything on one screen: processes, services with health, partitions, the current run.',
      answer: anything('StatusView; see docs/cli.md'),
      handle: () => d.status(),
    },
    {
      method: 'GET',
      path: '/config',
      summary: 'The configuration in force, with defaults filled in.',
      answer: anything('Configuration; see docs/configuration.md'),
      handle: () => d.configuration,
    },
    {
      method: 'POST',
      path: '/shutdown',
      summary: 'Ends the daemon; with keepRunning the mux, block and guest processes go on.',
      body: body({ keepRunning: { type: 'boolean', default: false } }),
      status: 202,
      answer: anything('Empty.'),
      handle: ({ body: { keepRunning } }) => {
        setImmediate(() => d.requestShutdown(keepRunning === true));
        return {};
      },
    },
    {
      method: 'GET',
      path: '/services',
      summary: 'Services: addresses, who serves, health as the probe sees it.',
      answer: anything('{services: ServiceView[]}'),
      handle: async () => ({ services: await d.services() }),
    },
    {
      method: 'GET',
      path: '/services/{name}/flows',
      summary: 'Flows of the service address that the mux knows.',
      answer: anything('{flows: [{flow, port, steered, state, idleMs}]}'),
      handle: async ({ parameters }) => ({ flows: await d.flows(parameters['name'] ?? '') }),
    },
    {
      method: 'GET',
      path: '/services/{name}/recorded',
      summary: 'Requests of clients that were recorded for the rehearsal of its next changeover.',
      answer: anything('RecordingView: requests (method, path, count, ageMs), connections, refused'),
      handle: ({ parameters }) => d.recordings.view(parameters['name'] ?? ''),
    },
  ];
}

function partitions(d: DaemonSurface): Route[] {
  return [
    {
      method: 'GET',
      path: '/partitions',
      summary: 'The resource table, with what runs.',
      answer: anything('{partitions: PartitionView[]}'),
      handle: async () => ({ partitions: await d.partitions.views() }),
    },
    {
      method: 'GET',
      path: '/partitions/{id}',
      summary: 'One partition.',
      answer: PARTITION,
      handle: ({ parameters }) => d.partitions.view(parameters['id'] ?? ''),
    },
    {
      method: 'GET',
      path: '/partitions/{id}/network',
      summary:
        'What its stack tells: each connection with round trip, windows and losses; counters; drops by reason.',
      answer: anything('PartitionFigures: partition, time, connections, states, tcp, ip, drops'),
      handle: ({ parameters }) => d.partitions.figures(parameters['id'] ?? ''),
    },
    {
      method: 'POST',
      path: '/partitions/{id}/start',
      summary: 'Starts a partition: the active of a service serves it, any other one boots isolated.',
      answer: PARTITION,
      handle: ({ parameters }) => d.partitions.start(parameters['id'] ?? ''),
    },
    {
      method: 'POST',
      path: '/partitions/{id}/stop',
      summary: 'Stops a partition. One that serves or belongs to a run only with force.',
      body: body({ force: { type: 'boolean', default: false } }),
      answer: PARTITION,
      handle: ({ parameters, body: { force } }) => d.partitions.stop(parameters['id'] ?? '', force === true),
    },
    {
      method: 'GET',
      path: '/partitions/{id}/console',
      summary: 'What the partition printed: its end, or what follows position `from`.',
      query: { bytes: { type: 'integer', default: DEFAULT_CONSOLE_BYTES }, from: { type: 'integer' } },
      answer: { type: 'object', properties: { text: TEXT, end: { type: 'integer' } } },
      handle: ({ parameters, query }) =>
        d.partitions.console(
          parameters['id'] ?? '',
          whole(query, 'bytes') ?? DEFAULT_CONSOLE_BYTES,
          whole(query, 'from'),
        ),
    },
  ];
}

function patches(d: DaemonSurface): Route[] {
  return [
    {
      method: 'GET',
      path: '/patches',
      summary: 'The patch table (Fig 6).',
      answer: anything('{patches: RegisteredPatch[]}'),
      handle: () => ({ patches: d.manager.list() }),
    },
    {
      method: 'POST',
      path: '/patches',
      summary: "Registers a patch by its description file on the daemon's host.",
      body: body({ description: { type: 'string', minLength: 1 } }, ['description']),
      status: 201,
      answer: PATCH,
      handle: ({ body: { description } }) => d.manager.add(absolute(String(description), 'description')),
    },
    {
      method: 'POST',
      path: '/patches/scan',
      summary: 'Looks into every patch source and registers what is new.',
      answer: anything('{registered: RegisteredPatch[], refused: string[]}'),
      handle: () => d.manager.scan(),
    },
    {
      method: 'GET',
      path: '/patches/{file}',
      summary: 'One patch.',
      answer: PATCH,
      handle: ({ parameters }) => d.manager.show(parameters['file'] ?? ''),
    },
    {
      method: 'POST',
      path: '/patches/{file}/flag',
      summary: 'Applies it at the next run (606).',
      answer: PATCH,
      handle: ({ parameters }) => d.manager.flag(parameters['file'] ?? ''),
    },
    {
      method: 'POST',
      path: '/patches/{file}/unflag',
      summary: 'Leaves it out of the next run.',
      answer: PATCH,
      handle: ({ parameters }) => d.manager.unflag(parameters['file'] ?? ''),
    },
  ];
}

function runs(d: DaemonSurface): Route[] {
  const id = (parameters: Readonly<Record<string, string>>) => d.runs.resolve(parameters['id'] ?? '');
  return [
    {
      method: 'GET',
      path: '/runs',
      summary: 'Runs, oldest first.',
      answer: anything('{runs: RunView[]}'),
      handle: () => ({ runs: d.runs.views() }),
    },
    {
      method: 'POST',
      path: '/runs',
      summary: 'Begins a run; how it goes on is told by events and GET /runs/{id}.',
      body: body({
        service: TEXT,
        strategy: { type: 'string', enum: ['auto', ...STRATEGIES] },
        procedure: { type: 'string', enum: ['auto', ...PROCEDURES] },
        prepareOnly: { type: 'boolean', description: 'Wait for /cut.' },
        dryRun: { type: 'boolean', description: 'Everything up to the cut, then discard.' },
        withoutPatches: { type: 'boolean' },
      }),
      status: 202,
      answer: RUN,
      handle: ({ body: request }) => d.runs.begin(request),
    },
    {
      method: 'GET',
      path: '/runs/{id}',
      summary: 'One run; `current` and `last` are known as ids everywhere.',
      answer: RUN,
      handle: ({ parameters }) => d.runs.view(id(parameters)),
    },
    {
      method: 'POST',
      path: '/runs/{id}/cut',
      summary: 'Moves the service of a prepared run (710).',
      status: 202,
      answer: RUN,
      handle: ({ parameters }) => d.runs.cut(id(parameters)),
    },
    {
      method: 'POST',
      path: '/runs/{id}/rollback',
      summary: 'Moves the service back, with everything that was written since.',
      status: 202,
      answer: RUN,
      handle: ({ parameters }) => d.runs.rollback(id(parameters)),
    },
    {
      method: 'POST',
      path: '/runs/{id}/commit',
      summary: 'Ends probation: the old partition becomes free.',
      answer: RUN,
      handle: ({ parameters }) => d.runs.commit(id(parameters)),
    },
    {
      method: 'POST',
      path: '/runs/{id}/cancel',
      summary: 'Undoes a run that has not moved the service yet.',
      answer: RUN,
      handle: ({ parameters }) => d.runs.cancel(id(parameters)),
    },
  ];
}

function captures(d: DaemonSurface): Route[] {
  return [
    {
      method: 'GET',
      path: '/captures',
      summary: 'Files that are being written.',
      answer: anything('{captures: string[]}'),
      handle: () => ({ captures: d.captures.running() }),
    },
    {
      method: 'POST',
      path: '/captures',
      summary:
        'Starts a pcapng capture of every port and uplink, or of those named, into a file or to a unix socket that the caller listens at.',
      body: body({
        file: { type: 'string', minLength: 1 },
        socket: { type: 'string', minLength: 1 },
        ports: { type: 'array', items: TEXT },
        snapLength: { type: 'integer', minimum: 64, maximum: 262_144 },
      }),
      status: 201,
      answer: { type: 'object', properties: { file: TEXT } },
      handle: ({ body: request }) => d.captures.start(request as CaptureRequest),
    },
    {
      method: 'POST',
      path: '/captures/history',
      summary:
        'Writes the latest packets, which the mux process keeps (network.historyMiB), into a pcapng file.',
      body: body({
        file: { type: 'string', minLength: 1 },
        ports: { type: 'array', items: TEXT },
        lastMs: { type: 'integer', minimum: 1 },
      }),
      status: 201,
      answer: anything('{file, packets, bytes}'),
      handle: ({ body: request }) => d.captures.history(request as HistoryRequest),
    },
    {
      method: 'POST',
      path: '/captures/stop',
      summary: 'Stops one capture, or all.',
      body: body({ file: TEXT }),
      answer: anything('{captures: [{file, packets, bytes, dropped}]}'),
      handle: async ({ body: { file } }) => ({
        captures: await d.captures.stop(file === undefined ? undefined : String(file)),
      }),
    },
  ];
}

export function daemonRoutes(daemon: DaemonSurface): Route[] {
  return [general, partitions, patches, runs, captures, networkRoutes].flatMap((part) => part(daemon));
}
