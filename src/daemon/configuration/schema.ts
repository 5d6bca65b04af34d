/**
 * JSON schema of the configuration file, and the source of docs/configuration.md. `hint` says in words what a value has to
 * be; it is what a person reads when a pattern or an alternative does not match.
 */
export interface ConfigurationSchema {
  readonly type?: 'object' | 'array' | 'string' | 'integer' | 'boolean';
  readonly description?: string;
  readonly hint?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minItems?: number;
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, ConfigurationSchema>>;
  readonly additionalProperties?: false;
  readonly items?: ConfigurationSchema;
  readonly oneOf?: readonly ConfigurationSchema[];
}

const NAME_PATTERN = '^[A-Za-z][A-Za-z0-9_-]{0,31}$';
const NAME_HINT = 'a letter, then up to 31 letters, digits, "-" or "_"';

function name(description: string): ConfigurationSchema {
  return { type: 'string', description, pattern: NAME_PATTERN, hint: NAME_HINT };
}

const OCTET = '(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])';
const IPV4 = `${OCTET}(\\.${OCTET}){3}`;

function cidr(description: string): ConfigurationSchema {
  return {
    type: 'string',
    description,
    pattern: `^${IPV4}/([1-9]|[12][0-9]|3[01])$`,
    hint: 'an IPv4 address with prefix length 1 to 31, such as 10.77.0.11/24',
  };
}

function cidr6(description: string): ConfigurationSchema {
  return {
    type: 'string',
    description,
    pattern: '^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*/([1-9][0-9]?|1[01][0-9]|12[0-7])$',
    hint: 'an IPv6 address with prefix length 1 to 127, such as fd00::11/64',
  };
}

function anyCidr(description: string): ConfigurationSchema {
  return {
    type: 'string',
    description,
    pattern: '^[0-9A-Fa-f:.]+/[0-9]{1,3}$',
    hint: 'an IPv4 or IPv6 address with prefix length',
  };
}

function mac(description: string): ConfigurationSchema {
  return {
    type: 'string',
    description,
    pattern: '^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$',
    hint: 'six hexadecimal bytes, such as "02:00:00:00:00:0a"',
  };
}

function path(description: string): ConfigurationSchema {
  return { type: 'string', description, minLength: 1, maxLength: 4096 };
}

function integer(
  description: string,
  minimum: number,
  maximum: number,
  fallback?: number,
): ConfigurationSchema {
  return {
    type: 'integer',
    description,
    minimum,
    maximum,
    ...(fallback === undefined ? {} : { default: fallback }),
  };
}

function boolean(description: string, fallback: boolean): ConfigurationSchema {
  return { type: 'boolean', description, default: fallback };
}

function object(
  description: string,
  required: readonly string[],
  properties: Readonly<Record<string, ConfigurationSchema>>,
  fallback?: object,
): ConfigurationSchema {
  return {
    type: 'object',
    description,
    required,
    properties,
    additionalProperties: false,
    ...(fallback === undefined ? {} : { default: fallback }),
  };
}

function list(description: string, items: ConfigurationSchema, minItems: number): ConfigurationSchema {
  return { type: 'array', description, items, minItems, ...(minItems === 0 ? { default: [] } : {}) };
}

function interfaceName(description: string): ConfigurationSchema {
  return {
    type: 'string',
    description,
    pattern: '^[A-Za-z0-9_.-]{1,15}$',
    hint: 'an interface name of at most 15 letters, digits, ".", "-" or "_"',
  };
}

function rate(description: string): ConfigurationSchema {
  return object(description, [], {
    bytesPerSecond: integer('Bytes of frames.', 1000, 1_000_000_000_000),
    packetsPerSecond: integer('Packets as on a wire.', 1, 1_000_000_000),
    burstBytes: integer('At once. Left out: what comes in 100 ms, at least 131072.', 1514, 1_000_000_000),
    burstPackets: integer('At once. Left out: what comes in 100 ms, at least 128.', 1, 1_000_000),
  });
}

const limits = object('What may pass per second, and wait. Left out: no limit.', [], {
  send: rate('What it may send; a partition is slowed down, of an uplink the rest is dropped.'),
  receive: rate('What it may be sent; the rest is dropped.'),
  queueBytes: integer('What may wait for it.', 131_072, 2_097_152),
});

const uplink = object('A network device of the host that the mux owns.', ['name'], {
  name: interfaceName(
    'Interface name in the host. A `tap` is created when it does not exist, a `nic` must exist.',
  ),
  kind: {
    type: 'string',
    description:
      'What kind of device it is: `tap`, an interface of our own that the host routes or bridges to; `nic`, an interface that the host has already and goes on using.',
    enum: ['tap', 'nic'],
    default: 'tap',
  },
  mtu: integer('Largest IP packet in bytes. Of a `nic`: no more than the interface has.', 576, 9000, 1500),
  hostAddress: cidr(
    "Address that the host's own kernel gets on this interface, with the interface set up. Left out: the administrator configures the host's side.",
  ),
  hostAddress6: cidr6('The same over IPv6.'),
  joins: interfaceName(
    'Another uplink, listed before: frames pass between both as through a switch. Left out: what comes in here leaves by no other uplink.',
  ),
});

const HTTP_TOKEN = "^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$";

const HEADER_NAME: ConfigurationSchema = {
  type: 'string',
  description: 'Header name.',
  pattern: '^[a-z0-9-]{1,64}$',
  hint: 'a header name in lower case, such as content-type',
};

const METHOD: ConfigurationSchema = {
  type: 'string',
  description: 'HTTP method.',
  pattern: '^[A-Z]{1,16}$',
  hint: 'a method in capital letters',
};

const TARGET: ConfigurationSchema = {
  type: 'string',
  description: 'Request target.',
  pattern: '^/[!-~]*$',
  hint: 'a path that begins with "/"',
};

const ignore = list(
  'What may differ.',
  {
    type: 'string',
    description: '`status`, `body`, or the name of a header in lower case.',
    pattern: '^[a-z0-9-]{1,64}$',
    hint: 'status, body or a header name in lower case',
  },
  0,
);

const ignoreText = list(
  'Regular expressions; what they match is left out of both bodies.',
  { type: 'string', description: 'Regular expression.', minLength: 1, maxLength: 256 },
  0,
);

const recording = object(
  'Requests of clients are recorded, out of new connections, and rehearsed after those of `requests`. They are kept in the memory of the mux process only. Left out: none are.',
  [],
  {
    methods: list(
      'Methods that are recorded. Left out: GET and HEAD. Others go to the standby only.',
      METHOD,
      0,
    ),
    paths: list('Only requests whose target begins with one of these. Left out: any.', TARGET, 0),
    headers: list(
      'Request headers that are kept beside accept, accept-language, content-type and range. Cookies and credentials are kept only when they are named here.',
      HEADER_NAME,
      0,
    ),
    requests: integer(
      'Kept at most: one for each method and target, those that come most often.',
      1,
      500,
      50,
    ),
    maxAgeMs: integer(
      'A request that did not come for so long is forgotten.',
      1000,
      2_592_000_000,
      86_400_000,
    ),
    connectionsPerSecond: integer('New connections that are followed per second at most.', 1, 1000, 5),
    ignore,
    ignoreText,
  },
);

const rehearsal = object(
  'Requests that the patched standby has to answer as the active does, before any client is moved.',
  ['port'],
  {
    port: integer('TCP port.', 1, 65535),
    timeoutMs: integer('Longest wait for an answer.', 1, 60_000, 2000),
    headers: list('Names of the headers that are compared, in lower case.', HEADER_NAME, 0),
    onDifference: {
      type: 'string',
      description: 'What a difference does: the run is refused, or it goes on and the report names it.',
      enum: ['refuse', 'warn'],
      default: 'refuse',
    },
    requests: list(
      'The requests, in order. The active is asked only GET, HEAD and OPTIONS; the standby works on a copy of the application disk that is thrown away.',
      object('A request.', ['path'], {
        method: { ...METHOD, default: 'GET' },
        path: TARGET,
        headers: list(
          'Request headers.',
          object('A header.', ['name', 'value'], {
            name: { type: 'string', description: 'Name.', pattern: HTTP_TOKEN, hint: 'a header name' },
            value: {
              type: 'string',
              description: 'Value.',
              pattern: '^[ -~]*$',
              hint: 'printable ASCII characters',
              maxLength: 8192,
            },
          }),
          0,
        ),
        body: { type: 'string', description: 'Request body.', maxLength: 1_048_576 },
        expectStatus: integer(
          "Status that the standby has to answer with, instead of the active's: for what the patch changes, and for requests that write.",
          100,
          599,
        ),
        ignore,
        ignoreText,
      }),
      0,
    ),
    recording,
  },
);

const service = object(
  'An address that clients use, and who serves it.',
  ['name', 'address', 'active', 'health'],
  {
    name: name('Name of the service.'),
    address: cidr('The address that clients use.'),
    second: cidr(
      'Address that the old partition takes while its connections drain after an `overlap` cut. Same network as `address`.',
    ),
    gateway: {
      type: 'string',
      description: 'Next hop out of the network.',
      pattern: `^${IPV4}$`,
      hint: 'an IPv4 address without prefix length, such as 10.77.0.1',
    },
    address6: cidr6('IPv6 address that clients use, too. It moves together with `address`.'),
    second6: cidr6('The same as `second` for `address6`; needed where there is a `second`.'),
    gateway6: {
      type: 'string',
      description: 'Next hop out of the IPv6 network; may be link-local.',
      pattern: '^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$',
      hint: 'an IPv6 address without prefix length, such as fd00::1',
    },
    also: list(
      'Further addresses of either family that move together with `address`.',
      object('An address.', ['address'], {
        address: anyCidr('The address that clients use.'),
        second: anyCidr(
          'The same as `second` for it; needed where there is a `second`. Same network as `address`.',
        ),
        device: name(
          'Network device that carries it: the one of this name, in a partition without it the one at the same place as in the active partition. Left out: the first one.',
        ),
        gateway: {
          type: 'string',
          description: 'Next hop out of its network, when it is on a device of its own.',
          pattern: '^[0-9A-Fa-f:.]+$',
          hint: 'an IPv4 or IPv6 address without prefix length',
        },
      }),
      0,
    ),
    rehearsal,
    active: name('Partition that serves at the first start; afterwards the stored roles decide.'),
    health: {
      description: 'How to tell that the service is well.',
      hint: 'exactly one of {http: {port, path, expectStatus, timeoutMs}} and {tcp: {port, timeoutMs}}',
      oneOf: [
        object('By an HTTP request.', ['http'], {
          http: object('GET, by the probe.', ['port'], {
            port: integer('TCP port.', 1, 65535),
            path: {
              type: 'string',
              description: 'Request target.',
              pattern: '^/[!-~]*$',
              hint: 'a path that begins with "/"',
              default: '/',
            },
            expectStatus: integer('Status that means well.', 100, 599, 200),
            timeoutMs: integer('Longest wait for the whole answer.', 1, 60_000, 1000),
          }),
        }),
        object('By a TCP connection.', ['tcp'], {
          tcp: object('Connect and close, by the probe.', ['port'], {
            port: integer('TCP port.', 1, 65535),
            timeoutMs: integer('Longest wait for the connection.', 1, 60_000, 1000),
          }),
        }),
      ],
    },
  },
);

const partition = object(
  'A row of the resource table: a logical computer.',
  ['id', 'processor', 'memoryMiB', 'disks'],
  {
    id: name('Identifier; also the first part of its sockets.'),
    kind: {
      type: 'string',
      description: 'Guest kind: how the partition is run.',
      enum: ['process'],
      default: 'process',
    },
    processor: object('Its part of a processor.', ['cpu'], {
      cpu: integer('Number of the processor, from 0.', 0, 4095),
      sharePercent: integer('Share of that processor that it gets when others want it, too.', 1, 100, 100),
      capped: boolean('It never gets more than its share, not even of an idle processor.', false),
    }),
    memoryMiB: integer('Memory.', 64, 1_048_576),
    disks: list(
      'Its disks: one `system` disk, and at most one `application` disk.',
      object('A disk image.', ['role', 'path'], {
        role: { type: 'string', description: 'What it holds.', enum: ['system', 'application'] },
        path: path('Image file. A relative path starts at the folder of the configuration file.'),
        sizeMiB: integer('Size with which the image is created when it does not exist.', 1, 1_073_741_824),
      }),
      1,
    ),
    network: list(
      'Its network devices.',
      object('A network device.', ['name', 'mac'], {
        name: name('Name, unique within the partition.'),
        mac: mac(
          'Hardware address: unicast and locally administered, that is, the first byte ends in 2, 6, a or e.',
        ),
        uplink: interfaceName('Uplink that it is behind. Left out: the first one.'),
        limits,
      }),
      0,
    ),
  },
);

const patching = object(
  'How patches come in and how a run goes.',
  [],
  {
    sources: list(
      'Where patches come from.',
      object('A patch source.', ['name', 'kind', 'path'], {
        name: name('Name of the source.'),
        kind: { type: 'string', description: 'What kind of source it is.', enum: ['directory'] },
        path: path('Folder with the patch files.'),
        publicKey: path('PEM file with the public key that signs the patches of this source.'),
      }),
      0,
    ),
    allowUnsigned: boolean(
      'Patches without a signature may be applied; they stay marked as unsigned.',
      false,
    ),
    malwareScanner: {
      description: 'Who checks the system disk for malicious programs before it is copied.',
      hint: 'none, or {clamd: PATH OF ITS SOCKET}',
      default: 'none',
      oneOf: [
        { type: 'string', const: 'none', description: 'Nobody.' },
        object('ClamAV.', ['clamd'], { clamd: path('Unix socket of clamd.') }),
      ],
    },
    allowUnscanned: boolean('A run goes on, marked "not checked", when nothing could be scanned.', false),
    strategy: {
      type: 'string',
      description: 'How the network is moved; `auto` picks one and says why.',
      enum: ['auto', 'overlap', 'hold', 'drain'],
      default: 'auto',
    },
    procedure: {
      type: 'string',
      description:
        'How the address gets from one partition to the other: `H6` its path moves, `H7` the partitions exchange their addresses, `H8` they do so under open connections. `auto`: as the strategy needs it, `H7` where the partitions are behind different uplinks.',
      enum: ['auto', 'H6', 'H7', 'H8'],
      default: 'auto',
    },
    carry: list(
      'Files and folders of the system disk whose changes after its cut are carried to the new partition.',
      {
        type: 'string',
        description: 'Absolute path in the partition.',
        pattern: '^/.*[^/]$',
        hint: 'an absolute path without a slash at its end',
        maxLength: 4096,
      },
      0,
    ),
    keepRuns: integer(
      'Runs that are over and whose report, journal and evidence are kept; earlier ones are removed when another begins.',
      1,
      100_000,
      100,
    ),
    copy: {
      type: 'string',
      description:
        'How disks get to the standby: `copy` under write log, or `mirror`, which copies only what changed since the last run.',
      enum: ['copy', 'mirror'],
      default: 'copy',
    },
    budget: object(
      'What a run may cost; a forecast above it refuses the run before anything is touched.',
      [],
      {
        pauseMs: integer('Longest pause that new requests may see at the cut.', 1, 600_000, 300),
        copyMs: integer('Longest time for the copy of the disks.', 1000, 86_400_000, 600_000),
        quiesceMs: integer('How long a request that may write gets to complete.', 0, 600_000, 200),
        drainMs: integer(
          'How long every accepted request gets to complete under `drain`, while new ones wait.',
          0,
          600_000,
          5000,
        ),
        oldFlowsMs: integer(
          'How long the old partition gets to finish its flows after the cut; what is left then is named in the report.',
          0,
          86_400_000,
          60_000,
        ),
      },
      {},
    ),
    lateWrites: {
      type: 'string',
      description: 'What becomes of writes that the old partition makes after the cut.',
      enum: ['refuse', 'set-aside'],
      default: 'refuse',
    },
    probation: object(
      'How the new partition is watched after the cut.',
      [],
      {
        startWaitMs: integer('Wait before the first check.', 0, 3_600_000, 0),
        stabilityMs: integer('How long the service must stay healthy.', 0, 86_400_000, 5000),
        tries: integer('Failed checks in a row that count as a failure.', 1, 1000, 3),
        rollbackOnFailure: boolean('Go back by itself when the checks fail.', true),
      },
      {},
    ),
  },
  {},
);

const supervision = object(
  'When something that ended, or does not answer, is started again, and when it is left to people.',
  [],
  {
    answerMs: integer(
      'A mux or block process, or a running partition, that does not answer for so long is killed.',
      500,
      600_000,
      10_000,
    ),
    restarts: integer('It is started again so many times within `withinMs`, then no more.', 1, 1_000_000, 5),
    withinMs: integer('See `restarts`.', 1000, 86_400_000, 60_000),
    rollbacks: integer('Rollbacks begun by the watch of the probation that may fail.', 1, 1000, 3),
    resumes: integer('Starts of the control process that may fail to take up the same run.', 1, 1000, 3),
  },
  {},
);

export const CONFIGURATION_SCHEMA: ConfigurationSchema = object(
  'The configuration file.',
  ['network', 'services', 'partitions'],
  {
    runDirectory: {
      ...path('Folder for sockets, the lock and scratch files.'),
      default: '/run/changeover',
    },
    stateDirectory: {
      ...path('Folder for what has to survive: state store, write logs, evidence.'),
      default: '/var/lib/changeover',
    },
    network: object('Uplinks and the probe.', ['uplinks', 'probe'], {
      uplinks: list('Network devices of the host that the mux owns.', uplink, 1),
      probe: object("The product's own client for health checks, a port of the mux.", ['address'], {
        address: cidr('Its address; not used by anybody else.'),
        address6: cidr6('Its IPv6 address; needed when a service has `address6`.'),
        also: list(
          'Its addresses in further networks: one for each network in which a service has an address.',
          anyCidr('An address.'),
          0,
        ),
        mac: { ...mac('Its hardware address.'), default: '02:00:00:00:00:fe' },
      }),
      historyMiB: integer(
        'Memory of the mux process for the latest packets of all ports and uplinks, which `changeover capture history` and every move write into a file; costs a copy of each packet. 0: none are kept.',
        0,
        4096,
        0,
      ),
    }),
    services: list('Services.', service, 1),
    partitions: list('The resource table.', partition, 1),
    patching,
    supervision,
  },
);
