/** The command line: names, options, examples. What a command does is loaded when it is called. */
import { Command } from 'commander';
import type { Act, ProgramHooks } from './command-spec.ts';
import { add, bigWhole, examplesText, flag, group, several, wholeNumber } from './command-spec.ts';

function daemonCommands(program: Command, hooks: ProgramHooks): void {
  add(
    program,
    'init',
    {
      summary: 'write a commented configuration',
      args: [['[file]', 'where to, default changeover.yaml']],
      options: [flag('--force', 'replace a file that exists')],
      examples: ['changeover init', 'changeover init /etc/changeover/changeover.yaml'],
      act: async (session, args, options) =>
        (await import('./commands/init.ts')).init(session, args, options),
    },
    hooks,
  );
  add(
    program,
    'up',
    {
      summary: 'start the daemon, in the foreground',
      options: [
        flag('--detach', 'return when it is up'),
        flag('--lifeline', 'end everything when stdin closes'),
      ],
      examples: ['changeover up', 'changeover up --detach --config shop.yaml'],
      act: async (session, _args, options) => (await import('./commands/up.ts')).up(session, options),
    },
    hooks,
  );
  add(
    program,
    'down',
    {
      summary: 'end the daemon and everything that it started',
      options: [flag('--keep-running', 'only the control process: packets and disk writes go on')],
      examples: ['changeover down', 'changeover down --keep-running && changeover up --detach'],
      act: async (session, _args, options) => (await import('./commands/down.ts')).down(session, options),
    },
    hooks,
  );
  add(
    program,
    'status',
    {
      summary: 'everything on one screen',
      examples: ['changeover status', 'changeover status --json | jq .services[0].health'],
      act: async (session) => (await import('./commands/status.ts')).status(session),
    },
    hooks,
  );
  add(
    program,
    'network',
    {
      summary: 'ports and uplinks: packets, bytes, limits, drops by reason',
      options: [
        flag('--connections <partition>', 'of the stack of this partition: round trips, windows, losses'),
      ],
      examples: [
        'changeover network',
        'changeover network --json | jq .ports[0].drops',
        'changeover network --connections A',
      ],
      act: async (session, _args, options) =>
        (await import('./commands/network.ts')).network(session, options),
    },
    hooks,
  );
  add(
    program,
    'doctor',
    {
      summary: 'check this host and the configuration, and say how to mend what is wrong',
      examples: ['changeover doctor', 'changeover doctor --config shop.yaml --json'],
      act: async (session) => (await import('./commands/doctor.ts')).doctor(session),
    },
    hooks,
  );
}

function partitionCommands(program: Command, hooks: ProgramHooks): void {
  const partition = group(program, 'partition', 'partitions: list, show, start, stop, console');
  const act =
    (name: 'list' | 'show' | 'start' | 'stop' | 'console'): Act =>
    async (session, args, options) =>
      (await import('./commands/partition.ts')).partitionCommands[name](session, args, options);
  const id: [string, string] = ['<id>', 'partition'];
  add(partition, 'list', { summary: 'the resource table, with what runs', act: act('list') }, hooks);
  add(partition, 'show', { summary: 'one partition', args: [id], act: act('show') }, hooks);
  add(
    partition,
    'start',
    {
      summary: 'start one: the active of a service serves it, any other boots isolated',
      args: [id],
      act: act('start'),
    },
    hooks,
  );
  add(
    partition,
    'stop',
    {
      summary: 'stop one',
      args: [id],
      options: [flag('--force', 'even if it serves or belongs to a run')],
      act: act('stop'),
    },
    hooks,
  );
  add(
    partition,
    'console',
    {
      summary: 'what it printed',
      args: [id],
      options: [
        flag('-f, --follow', 'go on until Ctrl-C'),
        flag('-n, --bytes <n>', 'at most so many bytes from the end').argParser(wholeNumber(1, 1_048_576)),
      ],
      examples: ['changeover partition console A --follow'],
      act: act('console'),
    },
    hooks,
  );
}

const STRATEGY = flag('--strategy <name>', 'who waits at the cut').choices([
  'auto',
  'overlap',
  'hold',
  'drain',
]);
const PROCEDURE = flag('--procedure <name>', 'how the address is moved').choices(['auto', 'H6', 'H7', 'H8']);
const SERVICE = flag('--service <name>', 'needed when more than one is configured');

function patchCommands(program: Command, hooks: ProgramHooks): void {
  const patch = group(program, 'patch', 'the patch table, and runs that apply what is flagged');
  const table =
    (name: 'list' | 'show' | 'add' | 'scan' | 'flag' | 'unflag'): Act =>
    async (session, args) =>
      (await import('./commands/patch.ts')).patchCommands[name](session, args);
  const run =
    (name: 'run' | 'dryRun' | 'cut' | 'cancel'): Act =>
    async (session, args, options) =>
      (await import('./commands/run.ts')).runCommands[name](session, args, options);
  const file: [string, string] = ['<file>', 'name of the patch in the table'];
  const files: [string, string] = ['<file...>', 'names of patches in the table'];
  const runId: [string, string] = ['[run]', 'id of the run, default: the current one'];

  add(patch, 'list', { summary: 'the patch table', act: table('list') }, hooks);
  add(patch, 'show', { summary: 'one patch', args: [file], act: table('show') }, hooks);
  add(
    patch,
    'add',
    {
      summary: 'register patches by their description files',
      args: [['<description...>', 'NAME.json, the patch file beside it']],
      examples: ['changeover patch add ./fix-1.0.1.json'],
      act: table('add'),
    },
    hooks,
  );
  add(
    patch,
    'scan',
    { summary: 'look into the patch sources and register what is new', act: table('scan') },
    hooks,
  );
  add(patch, 'flag', { summary: 'apply at the next run', args: [files], act: table('flag') }, hooks);
  add(patch, 'unflag', { summary: 'leave out of the next run', args: [files], act: table('unflag') }, hooks);
  add(
    patch,
    'run',
    {
      summary: 'copy, patch and check a standby, then move the service to it',
      options: [
        STRATEGY,
        PROCEDURE,
        SERVICE,
        flag('--dry-run', 'forecast, and every step that it would take; then discard'),
        flag('--prepare-only', 'stop before the cut; go on with changeover patch cut'),
        flag('--without-patches', 'also when nothing is flagged'),
      ],
      examples: [
        'changeover patch run',
        'changeover patch run --strategy hold --prepare-only',
        'changeover patch run --dry-run',
      ],
      act: run('run'),
    },
    hooks,
  );
  add(
    patch,
    'dry-run',
    {
      summary: 'everything up to the cut, then discard: the service is not touched',
      options: [STRATEGY, PROCEDURE, SERVICE, flag('--without-patches', 'also when nothing is flagged')],
      act: run('dryRun'),
    },
    hooks,
  );
  add(
    patch,
    'recorded',
    {
      summary: 'requests of clients that were recorded for the rehearsal',
      args: [['[service]', 'default: every service']],
      examples: ['changeover patch recorded', 'changeover patch recorded shop --json'],
      act: async (session, args) => (await import('./commands/recorded.ts')).recorded(session, args),
    },
    hooks,
  );
  add(patch, 'cut', { summary: 'move the service of a prepared run', args: [runId], act: run('cut') }, hooks);
  add(
    patch,
    'cancel',
    { summary: 'undo a run that has not moved the service yet', args: [runId], act: run('cancel') },
    hooks,
  );
}

function runCommands(program: Command, hooks: ProgramHooks): void {
  const act =
    (name: 'rollback' | 'commit' | 'report'): Act =>
    async (session, args, options) =>
      (await import('./commands/run.ts')).runCommands[name](session, args, options);
  const runId: [string, string] = ['[run]', 'id of the run, default: the current one'];
  add(
    program,
    'rollback',
    {
      summary: 'move the service back, with everything written since',
      args: [runId],
      examples: ['changeover rollback'],
      act: act('rollback'),
    },
    hooks,
  );
  add(
    program,
    'commit',
    { summary: 'end probation: there is no way back afterwards', args: [runId], act: act('commit') },
    hooks,
  );
  add(
    program,
    'report',
    {
      summary: 'what a run did',
      args: [['[run]', 'id of the run, default: the last one']],
      options: [flag('--all', 'one line per run')],
      examples: ['changeover report', 'changeover report --all', 'changeover report --json | jq .cut'],
      act: act('report'),
    },
    hooks,
  );
}

function captureCommands(program: Command, hooks: ProgramHooks): void {
  const capture = group(program, 'capture', 'captures of packets, as pcapng');
  const act =
    (name: 'start' | 'stop' | 'history'): Act =>
    async (session, args, options) =>
      (await import('./commands/capture.ts')).captureCommands[name](session, args, options);
  add(
    capture,
    'start',
    {
      summary: 'write every port and uplink to a file',
      args: [['[file]', 'default: a new file below the state directory']],
      options: [
        flag('--port <name>', 'only this port; may be repeated').argParser(several),
        flag('--snap-length <bytes>', 'cut packets off after so many bytes').argParser(
          wholeNumber(64, 262_144),
        ),
      ],
      examples: ['changeover capture start /tmp/cut.pcapng', 'changeover capture start --port A-net1'],
      act: act('start'),
    },
    hooks,
  );
  add(
    capture,
    'history',
    {
      summary: 'write the latest packets, which are kept in memory, to a file',
      args: [['[file]', 'default: a new file below the state directory']],
      options: [
        flag('--port <name>', 'only this port; may be repeated').argParser(several),
        flag('--last <seconds>', 'only of the last so many seconds').argParser(wholeNumber(1, 86_400)),
      ],
      examples: ['changeover capture history /tmp/before.pcapng --last 30 --port A-net1'],
      act: act('history'),
    },
    hooks,
  );
  add(
    capture,
    'stop',
    {
      summary: 'stop one capture, or all',
      args: [['[file]', 'which one']],
      act: act('stop'),
    },
    hooks,
  );
  add(
    capture,
    'split',
    {
      summary: 'one file for each view of a capture, for Wireshark’s experts; needs no daemon',
      args: [['<file>', 'a capture, also one that still grows']],
      options: [flag('--into <folder>', 'where to; default: beside the file')],
      examples: ['changeover capture split cut.pcapng && tshark -r cut.clients.pcapng -q -z expert'],
      act: async (session, args, options) =>
        (await import('./commands/standalone.ts')).standaloneCommands.captureSplit(session, args, options),
    },
    hooks,
  );
}

function standaloneCommands(program: Command, hooks: ProgramHooks): void {
  const act =
    (name: 'demo' | 'stack' | 'mux' | 'nbd' | 'logShow' | 'logVerify' | 'logReplay' | 'logExport'): Act =>
    async (session, args, options) =>
      (await import('./commands/standalone.ts')).standaloneCommands[name](session, args, options);
  add(
    program,
    'demo',
    {
      summary:
        'a stateful service under load, patched live, then rolled back; needs root, leaves nothing behind',
      options: [
        flag('--strategy <name>', 'how the network is moved')
          .choices(['both', 'overlap', 'hold', 'drain'])
          .default('both'),
        flag('--procedure <name>', 'how the address is moved').choices(['H6', 'H7', 'H8']),
        flag('--seconds <n>', 'steady load before and after every step')
          .argParser(wholeNumber(1, 3600))
          .default(3),
        flag('--rate <n>', 'requests per second').argParser(wholeNumber(10, 100_000)).default(2500),
        flag('--keep <dir>', 'keep the evidence there'),
      ],
      examples: ['changeover demo', 'changeover demo --strategy overlap --rate 2000 --keep /tmp/demo'],
      act: act('demo'),
    },
    hooks,
  );
  add(
    program,
    'stack',
    {
      summary: 'run an unmodified Node network application on our TCP/IP stack behind a TAP',
      args: [
        ['<app>', 'module of the application'],
        ['[args...]', 'what the application finds in process.argv'],
      ],
      options: [
        flag('--tap <name>', 'TAP interface, created when absent').makeOptionMandatory(),
        flag('--address <cidr>', 'address of the stack, IPv4 or IPv6; may be repeated')
          .argParser(several)
          .makeOptionMandatory(),
        flag('--gateway <address>', 'next hop out of the network; one per family').argParser(several),
        flag('--mac <mac>', 'its hardware address, default: made from the address'),
        flag('--mtu <bytes>', 'largest IP packet').argParser(wholeNumber(68, 65_521)),
        flag('--loopback <whose>', 'who answers at 127.0.0.1').choices(['node', 'stack']),
        flag('--no-offload', 'every segment and checksum in software'),
        flag('--pcap <file>', 'capture to this file'),
        flag(
          '--trace <file>',
          'write round trips, windows and losses of connections to this file (JSON lines)',
        ),
        flag('--stats', 'print connections and counters every second; SIGUSR1 does it once'),
      ],
      examples: ['changeover stack --tap co0 --address 10.0.0.2/24 ./server.mjs --port 80'],
      passThrough: true,
      act: act('stack'),
    },
    hooks,
  );
  add(
    program,
    'mux',
    {
      summary: 'connect interfaces like a bridge, with offloads',
      options: [
        flag('--tap <name>', 'TAP interface, created when absent; repeat for each').argParser(several),
        flag('--nic <name>', 'interface that the host has already; repeat for each').argParser(several),
        flag('--stats <seconds>', 'show packets, bytes and drops of each interface so often').argParser(
          wholeNumber(1, 86_400),
        ),
        flag('--mtu <bytes>', 'largest IP packet').argParser(wholeNumber(68, 65_521)),
        flag('--pcap <file>', 'capture to this file'),
      ],
      examples: ['changeover mux --tap co0 --tap co1', 'changeover mux --nic eth1 --tap co0'],
      act: act('mux'),
    },
    hooks,
  );
  add(
    program,
    'nbd',
    {
      summary: 'serve a file as a network block device',
      args: [['<file>', 'disk image']],
      options: [
        flag('--socket <path>', 'unix socket to listen on').makeOptionMandatory(),
        flag('--write-log <dir>', 'log every write there'),
        flag('--read-only', 'refuse writes'),
        flag(
          '--fault <rule>',
          'errors and delays for tests of recovery, as write:EIO,after=100; may be repeated',
        ).argParser(several),
        flag('--fault-seed <number>', 'the same chances again').argParser(wholeNumber(0, 4_294_967_295)),
        flag('--export-name <name>', "name of the export, default the file's"),
        flag('--export <name>', 'the same as --export-name').conflicts('exportName'),
      ],
      examples: [
        'changeover nbd disk.img --socket /tmp/disk.sock & nbdinfo nbd+unix:///?socket=/tmp/disk.sock',
      ],
      act: act('nbd'),
    },
    hooks,
  );
  logCommands(program, hooks, act);
}

function logCommands(
  program: Command,
  hooks: ProgramHooks,
  act: (name: 'logShow' | 'logVerify' | 'logReplay' | 'logExport') => Act,
): void {
  const log = group(program, 'log', 'write logs of disks: show, verify, replay, export');
  const directory: [string, string] = ['<dir>', 'folder of the write log'];
  const time = '2026-11-20T18:00:00.5Z, @SECONDS or nanoseconds since 1970';
  add(
    log,
    'show',
    {
      summary: 'its records, in the order of writing',
      args: [directory],
      options: [
        flag('--from-time <time>', time),
        flag('--to-time <time>', 'inclusive'),
        flag('--from-sequence <n>', 'first record').argParser(bigWhole),
        flag('--to-sequence <n>', 'last record').argParser(bigWhole),
        flag('--from-address <byte>', 'records that touch the disk from here').argParser(bigWhole),
        flag('--to-address <byte>', 'up to here, exclusive').argParser(bigWhole),
      ],
      examples: ['changeover log show ./log --from-sequence 100 --json | jq .address'],
      act: act('logShow'),
    },
    hooks,
  );
  add(
    log,
    'verify',
    {
      summary: 'read every byte of it and name what is damaged',
      args: [directory],
      examples: ['changeover log verify ./log'],
      act: act('logVerify'),
    },
    hooks,
  );
  add(
    log,
    'replay',
    {
      summary: 'reflect it onto an image: the disk as it was when the log began',
      args: [directory, ['<image>', 'disk image']],
      options: [
        flag('--to-sequence <n>', 'last record').argParser(bigWhole),
        flag('--to-time <time>', time),
        flag('--disk <id>', 'refuse the log of another disk'),
        flag('--generation <hex>', 'refuse a log of another generation'),
        flag('--partial', 'the image holds the records that were removed from the log'),
      ],
      examples: ['changeover log replay ./log copy.img --to-sequence 5000'],
      act: act('logReplay'),
    },
    hooks,
  );
  add(
    log,
    'export',
    {
      summary: 'write it in a format that other tools replay',
      args: [directory],
      options: [
        flag('--format <name>', "the kernel's device-mapper target log-writes")
          .choices(['dm-log-writes'])
          .makeOptionMandatory(),
        flag('--output <file>', 'new file').makeOptionMandatory(),
      ],
      examples: ['changeover log export ./log --format dm-log-writes --output log.dmlw'],
      act: act('logExport'),
    },
    hooks,
  );
}

export function buildProgram(hooks: ProgramHooks): Command {
  const program = new Command('changeover')
    .description('Patches a running service without stopping it.')
    .version(hooks.version, '-V, --version', 'version')
    .enablePositionalOptions()
    .showHelpAfterError(false)
    .showSuggestionAfterError(true);
  program.addHelpText(
    'after',
    examplesText([
      'changeover demo',
      'changeover init && changeover doctor && changeover up --detach && changeover status',
      'changeover patch add fix.json && changeover patch flag fix.diff && changeover patch run',
      'changeover rollback',
    ]),
  );
  daemonCommands(program, hooks);
  partitionCommands(program, hooks);
  patchCommands(program, hooks);
  runCommands(program, hooks);
  captureCommands(program, hooks);
  standaloneCommands(program, hooks);
  return program;
}

/** Every command of the tree, for settings that commander does not hand down. */
export function everyCommand(program: Command): Command[] {
  return [program, ...program.commands.flatMap((command) => everyCommand(command as Command))];
}
