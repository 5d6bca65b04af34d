/** A copy of buffer[at, at + length) with memory of its own. (`slice` would do, were it not a view when the buffer is a `Buffer`.) */
export function copyBytes(buffer: Uint8Array, at: number, length: number): Uint8Array {
  const copy = new Uint8Array(length);
  copy.set(buffer.subarray(at, at + length));
  return copy;
}
