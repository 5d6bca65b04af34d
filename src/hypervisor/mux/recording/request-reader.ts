/**
 * Reads the requests of one HTTP/1.x connection (RFC 9112) out of what the client sent, however it is cut into pieces. It looks on:
 * what is not to the letter (a bare LF, a folded field, two lengths, an unknown transfer coding) may be understood otherwise by the
 * server, so nothing of that connection is read any further. The same after a request that changes the protocol.
 */
export interface ReadRequest {
  readonly method: string;
  /** Origin form: `/path?query`. */
  readonly target: string;
  /** Names in lower case; several of a name joined by `, `. */
  readonly headers: ReadonlyMap<string, string>;
  /** Without transfer coding. */
  readonly body: Buffer;
}

export interface ReaderLimits {
  /** Request line and headers; trailers. */
  readonly headBytes: number;
  /** A request with a longer body is passed over. */
  readonly bodyBytes: number;
}

const STATE = { HEAD: 0, BODY: 1, CHUNK_SIZE: 2, CHUNK_DATA: 3, CHUNK_END: 4, TRAILER: 5 } as const;
const HEAD_END = Buffer.from('\r\n\r\n');
const LINE_END = Buffer.from('\r\n');
const CR = 13;
const LF = 10;
const MAX_CHUNK_LINE = 256;
const REQUEST_LINE = /^([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~]+) HTTP\/1\.[01]$/;
const FIELD = /^([!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}):[ \t]*([ -~\t\x80-\xff]*?)[ \t]*$/;
const CHUNK = /^([0-9A-Fa-f]{1,7})[ \t]*(;[ -~\t\x80-\xff]*)?$/;

export class RequestReader {
  readonly #limits: ReaderLimits;
  readonly #onRequest: (request: ReadRequest) => void;
  /** What was not consumed yet lies between the two positions. */
  #buffer: Buffer = Buffer.alloc(0);
  #from = 0;
  #to = 0;
  #state: number = STATE.HEAD;
  /** Of the head that is incomplete so many bytes were searched. */
  #searched = 0;
  #method = '';
  #target = '';
  #headers = new Map<string, string>();
  #body: Buffer[] = [];
  #bodyBytes = 0;
  /** Of a body or chunk. */
  #left = 0;
  #trailerBytes = 0;
  #ended = false;

  constructor(limits: ReaderLimits, onRequest: (request: ReadRequest) => void) {
    this.#limits = limits;
    this.#onRequest = onRequest;
  }

  /** Copies what it needs. False: nothing of this connection is read any more. */
  push(bytes: Uint8Array): boolean {
    if (this.#ended) return false;
    this.#append(bytes);
    while (!this.#ended && this.#step());
    return !this.#ended;
  }

  #append(bytes: Uint8Array): void {
    const held = this.#to - this.#from;
    if (this.#to + bytes.length > this.#buffer.length) {
      const size = held + bytes.length;
      const larger =
        this.#buffer.length >= size ? this.#buffer : Buffer.allocUnsafeSlow(Math.max(1024, 2 * size));
      this.#buffer.copy(larger, 0, this.#from, this.#to);
      this.#buffer = larger;
      this.#from = 0;
      this.#to = held;
    }
    this.#buffer.set(bytes, this.#to);
    this.#to += bytes.length;
  }

  /** One step further in what is there; false: more is needed, or it has ended. */
  #step(): boolean {
    switch (this.#state) {
      case STATE.HEAD:
        return this.#head();
      case STATE.BODY:
        return this.#data(STATE.HEAD);
      case STATE.CHUNK_SIZE:
        return this.#chunkSize();
      case STATE.CHUNK_DATA:
        return this.#data(STATE.CHUNK_END);
      case STATE.CHUNK_END:
        return this.#chunkEnd();
      default:
        return this.#trailer();
    }
  }

  #end(): false {
    this.#ended = true;
    this.#buffer = Buffer.alloc(0);
    this.#body = [];
    return false;
  }

  #head(): boolean {
    // Empty lines before a request line (RFC 9112, 2.2).
    while (
      this.#to - this.#from >= 2 &&
      this.#buffer[this.#from] === CR &&
      this.#buffer[this.#from + 1] === LF
    ) {
      this.#from += 2;
      this.#searched = 0;
    }
    const held = this.#to - this.#from;
    const at = this.#find(HEAD_END, Math.max(0, this.#searched - HEAD_END.length + 1));
    if (at < 0) {
      this.#searched = held;
      return held > this.#limits.headBytes ? this.#end() : false;
    }
    this.#searched = 0;
    if (at > this.#limits.headBytes) return this.#end();
    const [first = '', ...fields] = this.#buffer
      .toString('latin1', this.#from, this.#from + at)
      .split('\r\n');
    this.#from += at + HEAD_END.length;
    const line = REQUEST_LINE.exec(first);
    if (line === null) return this.#end();
    this.#method = line[1]!;
    this.#target = line[2]!;
    this.#headers = new Map();
    for (const text of fields) {
      const field = FIELD.exec(text);
      if (field === null) return this.#end();
      const name = field[1]!.toLowerCase();
      const earlier = this.#headers.get(name);
      // Two lengths, even equal ones, are not worth a guess.
      if (earlier !== undefined && name === 'content-length') return this.#end();
      this.#headers.set(name, earlier === undefined ? field[2]! : `${earlier}, ${field[2]!}`);
    }
    return this.#framing();
  }

  #framing(): boolean {
    const length = this.#headers.get('content-length');
    const coding = this.#headers.get('transfer-encoding');
    if (this.#method === 'CONNECT' || this.#headers.has('upgrade')) return this.#end();
    this.#body = [];
    this.#bodyBytes = 0;
    if (coding !== undefined) {
      if (length !== undefined || coding.toLowerCase() !== 'chunked') return this.#end();
      this.#state = STATE.CHUNK_SIZE;
      return true;
    }
    if (length === undefined) return this.#complete();
    if (!/^\d{1,15}$/.test(length)) return this.#end();
    this.#left = Number(length);
    this.#state = STATE.BODY;
    return this.#left === 0 ? this.#complete() : true;
  }

  #data(next: number): boolean {
    const take = Math.min(this.#left, this.#to - this.#from);
    if (take === 0) return false;
    this.#bodyBytes += take;
    if (this.#bodyBytes <= this.#limits.bodyBytes) {
      this.#body.push(Buffer.from(this.#buffer.subarray(this.#from, this.#from + take)));
    } else this.#body = [];
    this.#from += take;
    this.#left -= take;
    if (this.#left > 0) return false;
    this.#state = next;
    return next === STATE.HEAD ? this.#complete() : true;
  }

  #chunkSize(): boolean {
    const at = this.#find(LINE_END);
    if (at < 0) return this.#to - this.#from > MAX_CHUNK_LINE ? this.#end() : false;
    const size =
      at > MAX_CHUNK_LINE ? null : CHUNK.exec(this.#buffer.toString('latin1', this.#from, this.#from + at));
    if (size === null) return this.#end();
    this.#from += at + LINE_END.length;
    this.#left = Number.parseInt(size[1]!, 16);
    this.#trailerBytes = 0;
    this.#state = this.#left === 0 ? STATE.TRAILER : STATE.CHUNK_DATA;
    return true;
  }

  #chunkEnd(): boolean {
    if (this.#to - this.#from < 2) return false;
    if (this.#buffer[this.#from] !== CR || this.#buffer[this.#from + 1] !== LF) return this.#end();
    this.#from += 2;
    this.#state = STATE.CHUNK_SIZE;
    return true;
  }

  #trailer(): boolean {
    const at = this.#find(LINE_END);
    const held = at < 0 ? this.#to - this.#from : at + LINE_END.length;
    if (this.#trailerBytes + held > this.#limits.headBytes) return this.#end();
    if (at < 0) return false;
    this.#trailerBytes += held;
    this.#from += held;
    return at === 0 ? this.#complete() : true;
  }

  #complete(): boolean {
    this.#state = STATE.HEAD;
    this.#searched = 0;
    const whole = this.#bodyBytes <= this.#limits.bodyBytes;
    const body = this.#body.length === 1 ? this.#body[0]! : Buffer.concat(this.#body);
    this.#body = [];
    // An absolute target is for a proxy, `*` for the server as a whole: not what a path says.
    if (whole && this.#target.startsWith('/')) {
      this.#onRequest({ method: this.#method, target: this.#target, headers: this.#headers, body });
    }
    return true;
  }

  /** Counted from what was consumed; -1: not there. */
  #find(what: Buffer, after = 0): number {
    const at = this.#buffer.subarray(this.#from, this.#to).indexOf(what, after);
    return at;
  }
}
