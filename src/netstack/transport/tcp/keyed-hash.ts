/**
 * SipHash-2-4 (Aumasson and Bernstein 2012) over 32-bit words: the keyed hash behind initial sequence numbers, timestamp offsets and
 * SYN cookies, as Linux has it. A SYN flood asks for one per segment, so there is no object, no string and no call out of JavaScript.
 */
import type { Random } from '../../../common/index.ts';
import type { IpAddress } from '../../wire/index.ts';

const MOST_WORDS = 24;

export class KeyedHash {
  /** k0 and k1, low words first. */
  readonly #key = new Int32Array(4);
  /** v0 to v3, low words first. */
  readonly #v = new Int32Array(8);
  readonly #words = new Int32Array(MOST_WORDS);
  #count = 0;

  constructor(random: Random) {
    const secret = random.fill(new Uint8Array(16));
    const view = new DataView(secret.buffer);
    for (let i = 0; i < 4; i++) this.#key[i] = view.getInt32(4 * i, true);
  }

  /** Adds a word of what is hashed; what lies above 32 bits is not in it. */
  word(value: number): this {
    this.#words[this.#count++] = value;
    return this;
  }

  address(address: IpAddress): this {
    if (typeof address === 'number') return this.word(address);
    for (let at = 0; at < 32; at += 8) this.word(Number.parseInt(address.slice(at, at + 8), 16));
    return this;
  }

  /** The low 32 bits of the hash over the words since the last call; in the message a word's low byte is first. */
  finish(): number {
    const v = this.#v;
    const key = this.#key;
    const words = this.#words;
    const count = this.#count;
    this.#count = 0;
    v[0] = key[0]! ^ 0x70736575;
    v[1] = key[1]! ^ 0x736f6d65;
    v[2] = key[2]! ^ 0x6e646f6d;
    v[3] = key[3]! ^ 0x646f7261;
    v[4] = key[0]! ^ 0x6e657261;
    v[5] = key[1]! ^ 0x6c796765;
    v[6] = key[2]! ^ 0x79746573;
    v[7] = key[3]! ^ 0x74656462;
    let i = 0;
    for (; i + 1 < count; i += 2) compress(v, words[i]!, words[i + 1]!);
    // The last block: what is left, and the length in bytes modulo 256.
    compress(v, i < count ? words[i]! : 0, (4 * count) << 24);
    v[4]! ^= 0xff;
    for (let round = 0; round < 4; round++) sipRound(v);
    return (v[0]! ^ v[2]! ^ v[4]! ^ v[6]!) >>> 0;
  }
}

function compress(v: Int32Array, low: number, high: number): void {
  v[6]! ^= low;
  v[7]! ^= high;
  sipRound(v);
  sipRound(v);
  v[0]! ^= low;
  v[1]! ^= high;
}

/** One round, on 64-bit words in halves. */
function sipRound(v: Int32Array): void {
  let low0 = v[0]!;
  let high0 = v[1]!;
  let low1 = v[2]!;
  let high1 = v[3]!;
  let low2 = v[4]!;
  let high2 = v[5]!;
  let low3 = v[6]!;
  let high3 = v[7]!;
  let sum: number;
  let kept: number;
  // v0 += v1; v1 <<<= 13; v1 ^= v0; v0 <<<= 32
  sum = (low0 >>> 0) + (low1 >>> 0);
  high0 = (high0 + high1 + (sum > 0xffff_ffff ? 1 : 0)) | 0;
  low0 = sum | 0;
  kept = ((high1 << 13) | (low1 >>> 19)) ^ high0;
  low1 = ((low1 << 13) | (high1 >>> 19)) ^ low0;
  high1 = kept;
  kept = low0;
  low0 = high0;
  high0 = kept;
  // v2 += v3; v3 <<<= 16; v3 ^= v2
  sum = (low2 >>> 0) + (low3 >>> 0);
  high2 = (high2 + high3 + (sum > 0xffff_ffff ? 1 : 0)) | 0;
  low2 = sum | 0;
  kept = ((high3 << 16) | (low3 >>> 16)) ^ high2;
  low3 = ((low3 << 16) | (high3 >>> 16)) ^ low2;
  high3 = kept;
  // v0 += v3; v3 <<<= 21; v3 ^= v0
  sum = (low0 >>> 0) + (low3 >>> 0);
  high0 = (high0 + high3 + (sum > 0xffff_ffff ? 1 : 0)) | 0;
  low0 = sum | 0;
  kept = ((high3 << 21) | (low3 >>> 11)) ^ high0;
  low3 = ((low3 << 21) | (high3 >>> 11)) ^ low0;
  high3 = kept;
  // v2 += v1; v1 <<<= 17; v1 ^= v2; v2 <<<= 32
  sum = (low2 >>> 0) + (low1 >>> 0);
  high2 = (high2 + high1 + (sum > 0xffff_ffff ? 1 : 0)) | 0;
  low2 = sum | 0;
  kept = ((high1 << 17) | (low1 >>> 15)) ^ high2;
  low1 = ((low1 << 17) | (high1 >>> 15)) ^ low2;
  high1 = kept;
  v[0] = low0;
  v[1] = high0;
  v[2] = low1;
  v[3] = high1;
  v[4] = high2;
  v[5] = low2;
  v[6] = low3;
  v[7] = high3;
}
