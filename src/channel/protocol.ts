/**
 * The wire form of every control channel of the product: the QEMU guest agent's and QMP's JSON, one object per line.
 *
 *   request   {"execute": NAME, "arguments": {…}, "id": N}
 *   answer    {"return": …, "id": N}   or   {"error": {"class": CODE, "desc": SENTENCE, "remedy"?: SENTENCE}, "id": N}
 *   event     {"event": NAME, "data": {…}, "timestamp": {"seconds": S, "microseconds": U}}
 *
 * A guest agent that does not echo "id" (the standard one does not) is answered in order, which is how it works anyhow.
 * bigint values travel as decimal strings; whoever declares a command says which fields are such.
 */
import { CodedError } from '../common/index.ts';

/** Shape of a channel's vocabulary: command name → arguments and result. */
export type CommandMap = { [name: string]: { arguments: object; result: unknown } };
/** Event name → data. */
export type EventMap = { [name: string]: object };

/** Longest line that a side accepts, in bytes: connection hand-overs carry buffers. */
export const MAX_LINE_BYTES = 64 * 1024 * 1024;

export class ChannelError extends CodedError {}

export interface ErrorBody {
  readonly class: string;
  readonly desc: string;
  readonly remedy?: string;
}

export function encodeLine(value: object): string {
  return `${JSON.stringify(value, (_key, v) => (typeof v === 'bigint' ? v.toString() : v))}\n`;
}

/** Splits a byte stream into JSON objects; reports what is not one. */
export class LineDecoder {
  #parts: Buffer[] = [];
  #size = 0;
  readonly #onObject: (value: Record<string, unknown>) => void;
  readonly #onGarbage: (reason: string) => void;

  constructor(onObject: (value: Record<string, unknown>) => void, onGarbage: (reason: string) => void) {
    this.#onObject = onObject;
    this.#onGarbage = onGarbage;
  }

  push(chunk: Buffer): void {
    let start = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
      this.#parts.push(chunk.subarray(start, end));
      const line = Buffer.concat(this.#parts).toString('utf8').trim();
      this.#parts = [];
      this.#size = 0;
      start = end + 1;
      if (line !== '') this.#line(line);
    }
    if (start < chunk.length) {
      this.#parts.push(chunk.subarray(start));
      this.#size += chunk.length - start;
      if (this.#size > MAX_LINE_BYTES) {
        this.#parts = [];
        this.#size = 0;
        this.#onGarbage(`a line longer than ${MAX_LINE_BYTES} bytes`);
      }
    }
  }

  #line(line: string): void {
    // guest-sync-delimited puts 0xFF before its answer; it arrives as U+FFFD.
    const text = line.replace(/^[\u00ff\ufffd]+/, '');
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      this.#onGarbage(`not JSON: ${text.slice(0, 80)}`);
      return;
    }
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      this.#onGarbage('not a JSON object');
      return;
    }
    this.#onObject(value as Record<string, unknown>);
  }
}
