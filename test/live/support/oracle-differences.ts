/** Lines that differ on purpose: 0 the handshake, then the steps, then where the host is, then what the program saw. */
export const DIFFERENCES: Readonly<
  Record<
    string,
    {
      readonly lines: readonly { readonly line: number; readonly ours: string; readonly kernel: string }[];
      readonly why: string;
    }
  >
> = {
  'SYN with ECE and CWR': {
    lines: [{ line: 1, ours: 'SA seq 0 ack 1 (mss MSS)', kernel: 'SAE seq 0 ack 1 (mss MSS)' }],
    why: 'ECN is not implemented',
  },
  'SYN-RECEIVED: a new SYN in the window': {
    lines: [
      { line: 2, ours: 'A seq 1 ack 1', kernel: 'RA seq RANDOM ack 51' },
      { line: 3, ours: '-', kernel: 'R seq 1' },
      { line: 4, ours: 'A seq 1 ack 1', kernel: 'R seq 1' },
      { line: 5, ours: '{"text":"","ended":false}', kernel: 'no connection' },
    ],
    why: 'a challenge (RFC 5961 section 4.2) keeps a blind SYN from ending an opening',
  },
  'RST at the end of a piece out of order': {
    lines: [
      { line: 2, ours: 'A seq 1 ack 1', kernel: '-' },
      { line: 3, ours: 'A seq 1 ack 1', kernel: 'R seq 1' },
      {
        line: 4,
        ours: '{"text":"","ended":false}',
        kernel: '{"text":"","ended":false,"closed":"ECONNRESET"}',
      },
    ],
    why: 'RFC 5961 believes a RST at RCV.NXT only; the challenge brings one there',
  },
  'TIME-WAIT: RST': {
    lines: [{ line: 3, ours: 'A seq 2 ack 2', kernel: 'R seq 2' }],
    why: 'RFC 1337: TIME-WAIT is not ended by a RST',
  },
  'LAST-ACK: FIN again': {
    lines: [
      { line: 2, ours: 'A seq 2 ack 2', kernel: '-' },
      { line: 3, ours: 'A seq 2 ack 2', kernel: 'R seq 2' },
    ],
    why: 'the segment is not acceptable (RFC 9293 3.10.7.4), so its ACK does not count; the kernel lets it pass because it ends at RCV.NXT',
  },
  'urgent data in line': {
    lines: [{ line: 4, ours: '{"text":"abcdef","ended":false}', kernel: '{"text":"abdef","ended":false}' }],
    why: 'urgent data stay in line (RFC 6093); the kernel takes a byte out unless SO_OOBINLINE is set',
  },
  'an urgent pointer of zero': {
    lines: [{ line: 3, ours: '{"text":"abc","ended":false}', kernel: '{"text":"bc","ended":false}' }],
    why: 'urgent data stay in line (RFC 6093); the kernel takes a byte out unless SO_OOBINLINE is set',
  },
  'no timestamp where one is due': {
    lines: [
      { line: 2, ours: '-', kernel: 'A seq 1 ack 4' },
      { line: 3, ours: 'no connection', kernel: '{"text":"abc","ended":false}' },
    ],
    why: 'RFC 7323 section 3.2: a segment without the timestamps that were agreed on is dropped; the kernel takes it',
  },
};
