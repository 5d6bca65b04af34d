/*
 * Two rings of packets in memory that two processes share, one for each direction. No Node here; see ring.c.
 *
 *   page 0      control of ring 0 at 0 (what the maker sends), of ring 1 at 256 (what it receives)
 *   page 1 …    bytes of ring 0, then of ring 1; each a power of two, each mapped twice in a row, so that no record is ever split
 *
 * A record begins at a multiple of 8: its length in 4 bytes, 4 bytes of nothing, the packet, padding. Indices count bytes and
 * run on through 2^32; an index modulo the size is a place.
 *
 * Who writes what: `head` and `room` the side that sends, `tail` and `wake` the side that receives. Each side keeps what it has
 * written to itself and never reads it back. What it reads of the other side is read once, as a whole, and judged before it is
 * used: the other side may be hostile, and may write any byte of this memory at any time.
 */
#ifndef CHANGEOVER_RING_H
#define CHANGEOVER_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_HEADER 8u
/* virtio-net and Ethernet header. What is shorter is no packet. */
#define LEAST_LENGTH 24u
/* As in a stream (src/netstack/link/stream-framing.ts): up to here a packet is stepped over, beyond it is nobody's. */
#define MOST_LENGTH 69632u
#define LEAST_RING (1u << 18)
#define MOST_RING (1u << 26)

/* Why a ring cannot be followed any further; also in src/ring.ts. */
enum ring_fault { RING_INDEX = -1, RING_TOO_SHORT = -2, RING_TOO_LONG = -3, RING_CUT_OFF = -4 };

struct ring_control;

struct ring {
  void *control; /* one page */
  struct ring_control *rx, *tx;
  uint8_t *rx_data, *tx_data;
  uint32_t size;
  uint32_t rx_tail; /* given back to the sender */
  uint32_t rx_next; /* read so far */
  uint32_t tx_head; /* published */
  uint32_t tx_tail; /* of the other side, as last judged */
  int holders;
};

/* Makes and maps both rings; *memory is the descriptor to send. 0 or an errno. */
int ring_make(struct ring **ring, uint32_t size, int *memory);
/* Maps what somebody else has made. EPROTO: it is none, or its size may change under our feet. */
int ring_open(struct ring **ring, int memory);
/* Unmaps it with the last holder. */
void ring_let_go(struct ring *ring);

/*
 * Copies packets into `into` until there are none, `most` of them, or no room for the next one. Those longer than `longest` are
 * stepped over and counted. The count, or a fault. Zero: the other side will ring.
 */
int ring_read(struct ring *ring, uint8_t *into, size_t room, uint32_t *index, uint32_t most, uint32_t longest,
              uint32_t *oversize);
/* The same without a copy: offsets are those of rx_data, whose bytes stay until ring_give_back. For who trusts the other side. */
int ring_look(struct ring *ring, uint32_t *index, uint32_t most, size_t bytes, uint32_t longest, uint32_t *oversize);
/* Bytes that wait to be read, or a fault. Zero: the other side will ring. */
int ring_waiting(struct ring *ring);
/* What was read may be overwritten. Whether the other side is to be rung. */
bool ring_give_back(struct ring *ring);

/* What was written up to `head` may be read. Whether to ring the other side; `fault` when its tail is impossible. */
bool ring_publish(struct ring *ring, uint32_t head, bool *fault);
/* Asks to be rung when half of the ring is free, and reads the tail once more. */
void ring_want_room(struct ring *ring, bool *fault);

#endif
