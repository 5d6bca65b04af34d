/*
 * Rings of packets in shared memory: the protocol, without Node. ring.h has the layout.
 *
 * Waking is as with virtio's EVENT_IDX: who goes to sleep writes down the index that shall wake it and looks once more; who
 * passes that index rings, once. So there is no bell while the other side is awake. A store of one's own index and the load of
 * the other side's wish stand on either side of a full barrier in both, so that one of the two sees the other.
 */
#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define CONTROL_BYTES 4096u
#define NEEDED_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

struct line {
  _Atomic uint32_t value;
  uint8_t rest[60];
};

struct ring_control {
  struct line head, tail, wake, room;
};

_Static_assert(sizeof(struct ring_control) == 256, "one cache line each");

/* Whether an index that went from `old` to `new` has passed `event`. */
static bool passed(uint32_t event, uint32_t new, uint32_t old) { return new - event - 1 < new - old; }

static uint32_t record_bytes(uint32_t length) { return (RECORD_HEADER + length + 7u) & ~7u; }

/* Both halves show the same bytes, so that a record that begins before the end goes on behind it. */
static uint8_t *map_twice(int memory, off_t from, size_t size) {
  uint8_t *at = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

  if (at == MAP_FAILED) return NULL;
  for (size_t i = 0; i < 2; i++) {
    if (mmap(at + i * size, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, from) == MAP_FAILED) {
      const int err = errno;
      munmap(at, 2 * size);
      errno = err;
      return NULL;
    }
  }
  return at;
}

static void unmap(struct ring *r) {
  if (r->control != NULL) munmap(r->control, CONTROL_BYTES);
  if (r->rx_data != NULL) munmap(r->rx_data, 2 * (size_t)r->size);
  if (r->tx_data != NULL) munmap(r->tx_data, 2 * (size_t)r->size);
  free(r);
}

static int map(struct ring **ring, int memory, uint32_t size, bool maker) {
  struct ring *r = calloc(1, sizeof *r);
  uint8_t *first = NULL, *second = NULL;
  int err;

  if (r == NULL) return ENOMEM;
  r->size = size;
  r->holders = 1;
  r->control = mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (r->control == MAP_FAILED) r->control = NULL;
  if (r->control != NULL) first = map_twice(memory, CONTROL_BYTES, size);
  if (first != NULL) second = map_twice(memory, CONTROL_BYTES + (off_t)size, size);
  err = errno;
  r->tx_data = maker ? first : second;
  r->rx_data = maker ? second : first;
  if (second == NULL) {
    unmap(r);
    return err;
  }
  r->tx = (struct ring_control *)r->control + (maker ? 0 : 1);
  r->rx = (struct ring_control *)r->control + (maker ? 1 : 0);
  *ring = r;
  return 0;
}

int ring_make(struct ring **ring, uint32_t size, int *memory) {
  int fd = memfd_create("changeover-port", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  int err = 0;

  /* Before Linux 6.3 the last flag is unknown. */
  if (fd < 0 && errno == EINVAL) fd = memfd_create("changeover-port", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return errno;
  /* Sealed before anybody else has it: memory that shrinks would end whoever touches what is gone (SIGBUS). */
  if (ftruncate(fd, CONTROL_BYTES + 2 * (off_t)size) < 0 ||
      fcntl(fd, F_ADD_SEALS, NEEDED_SEALS | F_SEAL_SEAL) < 0)
    err = errno;
  if (err == 0) err = map(ring, fd, size, true);
  if (err != 0) {
    close(fd);
    return err;
  }
  *memory = fd;
  return 0;
}

int ring_open(struct ring **ring, int memory) {
  const int seals = fcntl(memory, F_GET_SEALS);
  struct stat status;
  uint64_t size;

  if (seals < 0 || (seals & NEEDED_SEALS) != NEEDED_SEALS || fstat(memory, &status) < 0) return EPROTO;
  size = ((uint64_t)status.st_size - CONTROL_BYTES) / 2;
  if (status.st_size != (off_t)(CONTROL_BYTES + 2 * size) || size < LEAST_RING || size > MOST_RING || (size & (size - 1)) != 0)
    return EPROTO;
  return map(ring, memory, (uint32_t)size, false);
}

void ring_let_go(struct ring *r) {
  if (--r->holders == 0) unmap(r);
}

/* ---- receiving */

/* How many bytes wait behind `rx_next`. None: the wish to be rung is written down, and they were looked for once more. */
static int64_t waiting(struct ring *r) {
  for (int look = 0;; look++) {
    const uint32_t there = atomic_load_explicit(&r->rx->head.value, memory_order_acquire) - r->rx_next;
    if (there > r->size - (r->rx_next - r->rx_tail) || (there & 7u) != 0) return RING_INDEX;
    if (there > 0 || look == 1) return there;
    atomic_store_explicit(&r->rx->wake.value, r->rx_next, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
  }
}

/* The next record's length, or a fault. Read once: the other side may change it meanwhile. */
static int64_t next_length(const struct ring *r, uint32_t there) {
  const uint8_t *at = r->rx_data + (r->rx_next & (r->size - 1));
  const uint32_t length = atomic_load_explicit((const _Atomic uint32_t *)at, memory_order_relaxed);

  if (length < LEAST_LENGTH) return RING_TOO_SHORT;
  if (length > MOST_LENGTH) return RING_TOO_LONG;
  if (record_bytes(length) > there) return RING_CUT_OFF;
  return length;
}

/* After a fault nothing counts as read. */
static int no_more(struct ring *r, int64_t fault) {
  r->rx_next = r->rx_tail;
  return (int)fault;
}

int ring_read(struct ring *r, uint8_t *into, size_t room, uint32_t *index, uint32_t most, uint32_t longest,
              uint32_t *oversize) {
  uint32_t count = 0;
  size_t used = 0;
  int64_t there = waiting(r);

  *oversize = 0;
  while (there > 0 && count < most) {
    const int64_t length = next_length(r, (uint32_t)there);
    if (length < 0) return no_more(r, length);
    if (length > longest) {
      ++*oversize;
    } else {
      if (room - used < (size_t)length) break;
      memcpy(into + used, r->rx_data + (r->rx_next & (r->size - 1)) + RECORD_HEADER, (size_t)length);
      index[2 * count] = (uint32_t)used;
      index[2 * count + 1] = (uint32_t)length;
      count++;
      used = (used + (size_t)length + 7u) & ~(size_t)7u;
      if (used > room) used = room;
    }
    r->rx_next += record_bytes((uint32_t)length);
    there -= record_bytes((uint32_t)length);
    /* Nothing but oversize ones so far: none is the sign that the other side will ring. */
    if (there == 0 && count == 0) there = waiting(r);
  }
  return there < 0 ? no_more(r, there) : (int)count;
}

int ring_look(struct ring *r, uint32_t *index, uint32_t most, size_t bytes, uint32_t longest, uint32_t *oversize) {
  const uint32_t from = r->rx_next;
  uint32_t count = 0;
  int64_t there = waiting(r);

  *oversize = 0;
  while (there > 0 && count < most && r->rx_next - from < bytes) {
    const int64_t length = next_length(r, (uint32_t)there);
    if (length < 0) return no_more(r, length);
    if (length > longest) {
      ++*oversize;
    } else {
      index[2 * count] = (r->rx_next & (r->size - 1)) + RECORD_HEADER;
      index[2 * count + 1] = (uint32_t)length;
      count++;
    }
    r->rx_next += record_bytes((uint32_t)length);
    there -= record_bytes((uint32_t)length);
    if (there == 0 && count == 0) there = waiting(r);
  }
  return there < 0 ? no_more(r, there) : (int)count;
}

int ring_waiting(struct ring *r) { return (int)waiting(r); }

bool ring_give_back(struct ring *r) {
  const uint32_t old = r->rx_tail;

  if (old == r->rx_next) return false;
  r->rx_tail = r->rx_next;
  atomic_store_explicit(&r->rx->tail.value, r->rx_tail, memory_order_release);
  atomic_thread_fence(memory_order_seq_cst);
  return passed(atomic_load_explicit(&r->rx->room.value, memory_order_relaxed), r->rx_tail, old);
}

/* ---- sending */

static void judge_tail(struct ring *r, bool *fault) {
  const uint32_t tail = atomic_load_explicit(&r->tx->tail.value, memory_order_acquire);

  *fault = r->tx_head - tail > r->size || tail - r->tx_tail > r->tx_head - r->tx_tail;
  if (!*fault) r->tx_tail = tail;
}

bool ring_publish(struct ring *r, uint32_t head, bool *fault) {
  const uint32_t old = r->tx_head;

  r->tx_head = head;
  atomic_store_explicit(&r->tx->head.value, head, memory_order_release);
  atomic_thread_fence(memory_order_seq_cst);
  judge_tail(r, fault);
  return passed(atomic_load_explicit(&r->tx->wake.value, memory_order_relaxed), head, old);
}

void ring_want_room(struct ring *r, bool *fault) {
  atomic_store_explicit(&r->tx->room.value, r->tx_head - r->size / 2 - 1, memory_order_relaxed);
  atomic_thread_fence(memory_order_seq_cst);
  judge_tail(r, fault);
}
