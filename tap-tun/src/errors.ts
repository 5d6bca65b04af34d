import { getSystemErrorName } from 'node:util';

export interface TapErrorOptions {
  /** What to do next, one sentence. */
  readonly remedy?: string;
  readonly values?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/**
 * Every error of this package. `code` is the errno's name ('EPERM', 'EBUSY', 'ENOENT' …), or one of ours:
 * CLOSED, BAD_NAME, BAD_OPTION, NOT_BUILT, NOT_LOADABLE, UNSUPPORTED_PLATFORM.
 */
export class TapError extends Error {
  readonly code: string;
  readonly remedy: string | undefined;
  readonly values: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, options: TapErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'TapError';
    this.code = code;
    this.remedy = options.remedy;
    this.values = options.values ?? {};
  }
}

/** Name of a positive errno. The two that libuv does not know are those a deleted or renamed device gives. */
export function errnoName(errno: number): string {
  if (errno === 77) return 'EBADFD';
  if (errno === 76) return 'ENOTUNIQ';
  const name = getSystemErrorName(-errno);
  return name.startsWith('Unknown') ? `ERRNO_${errno}` : name;
}

interface Explanation {
  readonly message: (subject: string) => string;
  readonly remedy: string;
}

const PRIVILEGE: Explanation = {
  message: (subject) => `no permission for ${subject}`,
  remedy: 'run as root or with CAP_NET_ADMIN (packet sockets need CAP_NET_RAW)',
};
const NO_DRIVER: Explanation = {
  message: () => 'this kernel offers no TUN/TAP devices: /dev/net/tun is missing or has no driver',
  remedy:
    "load the module with 'modprobe tun'; where the module is there but the file is not: 'mkdir -p /dev/net && mknod /dev/net/tun c 10 200'; in a container pass the device in",
};
const GONE: Explanation = {
  message: (subject) => `${subject} no longer exists`,
  remedy: 'it was deleted outside this process: close this device and open it again',
};

/** By `syscall:errno`, then by `*:errno`. */
const EXPLANATIONS: Readonly<Record<string, Explanation>> = {
  'open:ENOENT': NO_DRIVER,
  'open:ENODEV': NO_DRIVER,
  'open:ENXIO': NO_DRIVER,
  'open:EACCES': {
    message: () => 'no permission to open /dev/net/tun',
    remedy:
      "run as root, or let this user open it: 'chmod 666 /dev/net/tun' (creating devices still needs CAP_NET_ADMIN)",
  },
  'TUNSETIFF:EBUSY': {
    message: (subject) => `${subject} is in use by another process`,
    remedy: 'stop whoever holds it, choose another name, or open both sides with multiQueue',
  },
  'TUNSETIFF:EEXIST': {
    message: (subject) => `${subject} exists already`,
    remedy: 'choose another name',
  },
  'TUNSETIFF:EINVAL': {
    message: (subject) =>
      `${subject} cannot be opened this way: an interface of this name is of another kind, or was made with other flags`,
    remedy:
      "look at it with 'ip -d link show'; kind (tap, tun) and multiQueue must be as it was created, or choose another name",
  },
  'TUNSETIFF:E2BIG': {
    message: (subject) => `${subject} has all the queues it can have`,
    remedy: 'close a queue first',
  },
  'if_nametoindex:ENODEV': {
    message: (subject) => `there is no ${subject}`,
    remedy: "the names that exist are shown by 'ip link'",
  },
  'open netns:ENOENT': {
    message: (subject) => `the network namespace for ${subject} does not exist`,
    remedy: "create it with 'ip netns add NAME', or give the path of one, such as /proc/PID/ns/net",
  },
  'setns:EINVAL': {
    message: (subject) => `the namespace file given for ${subject} is no network namespace`,
    remedy: 'name one of /var/run/netns, or a path such as /proc/PID/ns/net',
  },
  'SIOCSIFMTU:EINVAL': {
    message: (subject) => `${subject} does not take this MTU`,
    remedy: 'TAP devices take 68 to 65521, TUN devices up to 65535',
  },
  'SIOCSIFHWADDR:EADDRNOTAVAIL': {
    message: (subject) => `${subject} does not take this MAC address`,
    remedy: 'choose a unicast address: the lowest bit of the first byte clear, and not all zero',
  },
  'SIOCSIFHWADDR:EBUSY': {
    message: (subject) => `the MAC address of ${subject} cannot be changed while it is up`,
    remedy: 'take it down first',
  },
  '*:EPERM': PRIVILEGE,
  '*:EACCES': PRIVILEGE,
  '*:EBADFD': GONE,
  '*:ENODEV': GONE,
  '*:ENXIO': GONE,
  '*:EPIPE': {
    message: (subject) => `the other end of ${subject} is closed`,
    remedy: 'close this end, too',
  },
  '*:EMFILE': {
    message: () => 'this process has too many open files',
    remedy: "raise the limit ('ulimit -n') or close devices",
  },
  '*:EFAULT': {
    message: (subject) => `the batch buffer of ${subject} was detached`,
    remedy: 'do not transfer the buffer handed to the batch handler; copy what is to be kept',
  },
};

/** `subject` is a noun phrase: "interface tap0". */
export function errnoError(subject: string, syscall: string, errno: number, cause?: unknown): TapError {
  const code = errnoName(errno);
  const explanation = EXPLANATIONS[`${syscall}:${code}`] ?? EXPLANATIONS[`*:${code}`];
  return new TapError(
    code,
    explanation === undefined
      ? `${syscall} failed for ${subject} with ${code}`
      : explanation.message(subject),
    {
      ...(explanation === undefined ? {} : { remedy: explanation.remedy }),
      values: { syscall, errno },
      cause,
    },
  );
}

/** Runs a native call; what it throws with an errno becomes a TapError. */
export function translating<T>(subject: string, call: () => T): T {
  try {
    return call();
  } catch (thrown) {
    const { errno, syscall } = thrown as { errno?: unknown; syscall?: unknown };
    if (typeof errno !== 'number' || typeof syscall !== 'string') throw thrown;
    if (syscall === 'closed') throw new TapError('CLOSED', `${subject} is closed`);
    throw errnoError(subject, syscall, errno, thrown);
  }
}
