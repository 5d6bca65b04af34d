/*
 * Trains: UDP datagrams of one flow that have been read one after the other leave in one write.
 *
 * A train is one packet with the headers of its first datagram, all payloads behind each other, and an offload header that has the
 * receiver's kernel cut it into the datagrams again (VIRTIO_NET_HDR_GSO_UDP_L4, Linux 6.2). What the kernel makes of it must be what came
 * in, byte for byte, so a datagram joins only where that is certain:
 *  - it is alone in its packet: no fragment, no options, no padding, lengths that agree, its checksum left to the receiver;
 *  - all have the same headers but for what the kernel counts up or computes. The identification of IPv4 grows by one, as the kernel
 *    will have it (Linux sends so from sockets that are connected);
 *  - all have the same length, but the last may be shorter;
 *  - IPv4 headers carry a good checksum each: a damaged one must arrive damaged.
 *
 * A train lives within one wake-up: it takes what stands in the queue, and waits for nothing. The first datagram of a wake-up goes
 * at once. When the receiver has no room for the train, or its kernel does not know such packets, its datagrams are
 * JavaScript's, as they were.
 */
#include "device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VNET_HEADER 10u
#define VNET_NEEDS_CSUM 1
#define VNET_GSO_UDP_L4 5
#define VNET_GSO_SIZE 4u
#define VNET_CSUM_START 6u
#define VNET_CSUM_OFFSET 8u

#define ETHERNET_HEADER 14u
#define IP_AT (VNET_HEADER + ETHERNET_HEADER)
#define IPV4_HEADER 20u
#define IPV6_HEADER 40u
#define UDP_HEADER 8u
#define UDP_LENGTH 4u
#define UDP_CHECKSUM 6u
#define NEXT_UDP 17

/* UDP_MAX_SEGMENTS of kernels before 6.11. */
#define MOST 64u
#define IP_MOST 65535u

struct train {
  struct device *to; /* NULL: no train */
  bool ipv4;
  unsigned count;
  unsigned headers;  /* before the payload, with the virtio-net header */
  unsigned size;     /* of each payload but the last */
  unsigned last;     /* of the last payload */
  size_t used;       /* of data */
  size_t separate;   /* room that the datagrams need in a batch */
  uint8_t head[VNET_HEADER + ETHERNET_HEADER + IPV6_HEADER + UDP_HEADER]; /* of the first datagram */
  uint8_t data[SLOT];
};

static unsigned number16(const uint8_t *at) { return (unsigned)at[0] << 8 | at[1]; }
static void put16(uint8_t *at, unsigned value) {
  at[0] = (uint8_t)(value >> 8);
  at[1] = (uint8_t)value;
}
static void put_little16(uint8_t *at, unsigned value) {
  at[0] = (uint8_t)value;
  at[1] = (uint8_t)(value >> 8);
}

static unsigned header_sum(const uint8_t *ip) {
  unsigned sum = 0;

  for (unsigned i = 0; i < IPV4_HEADER; i += 2) sum += number16(ip + i);
  sum = (sum & 0xffff) + (sum >> 16);
  return (sum & 0xffff) + (sum >> 16);
}

/* A sum over a header in which the 16-bit word `before` has become `after`, as the kernel computes it. */
static unsigned changed_sum(unsigned sum, unsigned before, unsigned after) {
  sum += (before ^ 0xffff) + after;
  sum = (sum & 0xffff) + (sum >> 16);
  return (sum & 0xffff) + (sum >> 16);
}

/* Bytes of headers of a frame that can be in a train, or 0. It has been recognised by its shortcut: Ethernet, plain IPv4 or IPv6. */
static unsigned headers_of(const uint8_t *frame, size_t length) {
  const uint8_t *ip = frame + IP_AT;
  const bool ipv4 = ip[0] >> 4 == 4;
  const unsigned ip_header = ipv4 ? IPV4_HEADER : IPV6_HEADER;
  const unsigned headers = IP_AT + ip_header + UDP_HEADER;
  const uint8_t *udp = ip + ip_header;

  if (length <= headers || frame[0] != VNET_NEEDS_CSUM || frame[1] != 0) return 0;
  if (frame[VNET_CSUM_START] != ETHERNET_HEADER + ip_header || frame[VNET_CSUM_START + 1] != 0 ||
      frame[VNET_CSUM_OFFSET] != UDP_CHECKSUM || frame[VNET_CSUM_OFFSET + 1] != 0)
    return 0;
  if (ipv4) {
    if (ip[9] != NEXT_UDP || (ip[6] & 0xbf) != 0 || ip[7] != 0 || number16(ip + 2) != length - IP_AT) return 0;
    /* 0xffff would be right instead of zero, but is not what is computed. */
    if (header_sum(ip) != 0xffff || number16(ip + 10) == 0xffff) return 0;
  } else if (ip[6] != NEXT_UDP || number16(ip + 4) != length - IP_AT - IPV6_HEADER) {
    return 0;
  }
  return number16(udp + UDP_LENGTH) == length - IP_AT - ip_header ? headers : 0;
}

/* Whether the kernel will make this datagram of the train's next segment. */
static bool continues(const struct train *t, const uint8_t *frame, unsigned headers, unsigned payload) {
  const uint8_t *ip = frame + IP_AT, *first = t->head + IP_AT;
  const uint8_t *udp = frame + headers - UDP_HEADER, *first_udp = t->head + headers - UDP_HEADER;

  if (headers != t->headers || payload > t->size || memcmp(frame, t->head, IP_AT) != 0) return false;
  if (t->ipv4) {
    if (number16(ip + 4) != ((number16(first + 4) + t->count) & 0xffff)) return false;
    if (memcmp(ip, first, 2) != 0 || memcmp(ip + 6, first + 6, 4) != 0 || memcmp(ip + 12, first + 12, 8) != 0) return false;
  } else if (memcmp(ip, first, 4) != 0 || memcmp(ip + 6, first + 6, IPV6_HEADER - 6) != 0) {
    return false;
  }
  return memcmp(udp, first_udp, UDP_LENGTH) == 0 &&
         number16(udp + UDP_CHECKSUM) == (payload == t->size
                                              ? number16(first_udp + UDP_CHECKSUM)
                                              : changed_sum(number16(first_udp + UDP_CHECKSUM),
                                                            number16(first_udp + UDP_LENGTH), UDP_HEADER + payload));
}

static size_t in_batch(unsigned bytes) { return (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1); }

bool has_train(const struct device *from) { return from->train != NULL && from->train->to != NULL; }

bool train_is_full(const struct device *from) {
  return from->train->count == MOST || from->train->last < from->train->size;
}

bool begin_train(struct device *from, const struct shortcut *s, const uint8_t *frame, size_t length) {
  struct device *to = train_to(s);
  const unsigned headers = to == NULL || to->refuses_trains ? 0 : headers_of(frame, length);
  struct train *t = from->train;

  if (headers == 0) return false;
  if (t == NULL && (t = from->train = calloc(1, sizeof *t)) == NULL) return false;
  t->to = to;
  t->ipv4 = frame[IP_AT] >> 4 == 4;
  t->count = 1;
  t->headers = headers;
  t->size = t->last = (unsigned)length - headers;
  t->used = length;
  t->separate = in_batch((unsigned)length);
  memcpy(t->head, frame, headers);
  memcpy(t->data, frame, length);
  return true;
}

bool continue_train(struct device *from, const struct shortcut *s, const uint8_t *frame, size_t length) {
  struct train *t = from->train;
  const unsigned headers = has_train(from) && t->to == train_to(s) ? headers_of(frame, length) : 0;
  const unsigned payload = (unsigned)length - headers;

  if (headers == 0 || t->separate + in_batch((unsigned)length) > SLOT || t->used - IP_AT + payload > IP_MOST ||
      !continues(t, frame, headers, payload))
    return false;
  memcpy(t->data + t->used, frame + headers, payload);
  t->used += payload;
  t->separate += in_batch((unsigned)length);
  t->last = payload;
  t->count++;
  return true;
}

/* Makes one packet of the headers in `data`. */
static void set_headers(struct train *t) {
  uint8_t *ip = t->data + IP_AT, *udp = t->data + t->headers - UDP_HEADER;
  const unsigned udp_length = (unsigned)(t->used - t->headers) + UDP_HEADER;

  t->data[1] = VNET_GSO_UDP_L4;
  put_little16(t->data + 2, t->headers - VNET_HEADER);
  put_little16(t->data + VNET_GSO_SIZE, t->size);
  if (t->ipv4) {
    put16(ip + 2, IPV4_HEADER + udp_length);
    put16(ip + 10, 0);
    put16(ip + 10, header_sum(ip) ^ 0xffff);
  } else {
    put16(ip + 4, udp_length);
  }
  put16(udp + UDP_CHECKSUM, changed_sum(number16(udp + UDP_CHECKSUM), number16(udp + UDP_LENGTH), udp_length));
  put16(udp + UDP_LENGTH, udp_length);
}

struct device *send_train(struct device *from) {
  struct train *t = from->train;
  struct device *to = t->to;
  const double bytes = (double)(t->used + (size_t)(t->count - 1) * t->headers);

  if (t->count > 1) set_headers(t);
  for (;;) {
    if (write(to->fd, t->data, t->used) >= 0) {
      to->counters[TX_FRAMES] += t->count;
      to->counters[TX_BYTES] += bytes;
      break;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN || is_fatal(errno)) return NULL;
    if (errno == EINVAL && t->count > 1) {
      to->refuses_trains = true;
      return NULL;
    }
    to->counters[errno == EINVAL || errno == EMSGSIZE || errno == EFAULT ? TX_REJECTED : TX_DROPPED] += t->count;
    break;
  }
  from->counters[RX_SHORT] += t->count;
  from->counters[RX_SHORT_BYTES] += bytes;
  to->counters[TX_SHORT] += t->count;
  to->counters[TX_SHORT_BYTES] += bytes;
  t->to = NULL;
  return to;
}

uint32_t unpack_train(struct device *from, uint8_t *data, size_t *used, uint32_t *index) {
  struct train *t = from->train;
  const uint8_t *payload = t->data + t->headers;

  for (uint32_t i = 0; i < t->count; i++) {
    const unsigned size = i + 1 < t->count ? t->size : t->last;
    uint8_t *frame = data + *used, *ip = frame + IP_AT, *udp = frame + t->headers - UDP_HEADER;
    memcpy(frame, t->head, t->headers);
    memcpy(frame + t->headers, payload, size);
    payload += size;
    if (t->ipv4) {
      put16(ip + 2, t->headers - IP_AT + size);
      put16(ip + 4, number16(ip + 4) + i);
      put16(ip + 10, 0);
      put16(ip + 10, header_sum(ip) ^ 0xffff);
    } else {
      put16(ip + 4, UDP_HEADER + size);
    }
    if (size != t->size) {
      put16(udp + UDP_CHECKSUM,
            changed_sum(number16(udp + UDP_CHECKSUM), number16(udp + UDP_LENGTH), UDP_HEADER + size));
      put16(udp + UDP_LENGTH, UDP_HEADER + size);
    }
    index[2 * i] = (uint32_t)*used;
    index[2 * i + 1] = t->headers + size;
    *used += in_batch(t->headers + size);
  }
  t->to = NULL;
  return t->count;
}
