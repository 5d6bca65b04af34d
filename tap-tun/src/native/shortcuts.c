/*
 * Shortcuts: frames that JavaScript would pass on unchanged, from one device to one other, pass without it.
 *
 * A shortcut is made from a frame that JavaScript has just passed on; it says "frames like this one go there". Alike are
 * frames with the same Ethernet header and the same IP destination, in the plainest form only: IPv4 without options, IPv6
 * whose next header is TCP, UDP or an ICMPv6 echo, lengths that fit, and an offload header that the receiver understands.
 * Anything else is no shortcut's and goes to JavaScript, as does a frame for which the receiver has no room. JavaScript
 * forgets all shortcuts of a device whenever it may decide otherwise from now on, so a shortcut decides nothing: it repeats.
 *
 * Order: a frame takes a shortcut only when no frame of the same batch waits for JavaScript and the receiver has none
 * that waits for room, so no frame overtakes an earlier one of the same device.
 *
 * Frames are preceded by the 10-byte virtio-net header, on both devices; numbers in it are little-endian.
 */
#include "device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VNET_HEADER 10u
#define VNET_NEEDS_CSUM 1
#define VNET_DATA_VALID 2
#define VNET_GSO_TCPV4 1
#define VNET_GSO_TCPV6 4
#define VNET_GSO_ECN 0x80

#define ETHERNET_HEADER 14u
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define IPV4_HEADER 20u
#define IPV4_DESTINATION 16u
#define IPV6_HEADER 40u
#define IPV6_DESTINATION 24u
#define NEXT_TCP 6
#define NEXT_UDP 17
#define NEXT_ICMPV6 58
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

/* A power of two. Two frames that are not alike may fall on the same place; then the later shortcut stays. */
#define PLACES 1024u

/* Bits of `takes`, the same numbers in src/native.ts. */
#define TAKES_CHECKSUM 1
#define TAKES_TSO4 2
#define TAKES_TSO6 4
#define TAKES_USO 8

struct shortcut {
  uint64_t key[4]; /* Ethernet header, IP destination, zeros */
  struct device *to;
  uint32_t generation;
  uint32_t longest : 24; /* of a frame that is not to be segmented, without the virtio-net header */
  uint32_t takes : 8;
};

static unsigned number16(const uint8_t *at) { return (unsigned)at[0] << 8 | at[1]; }
static unsigned little16(const uint8_t *at) { return at[0] | (unsigned)at[1] << 8; }

/* What a frame is recognised by; false when it is not of the plainest form. */
static bool key_of(const uint8_t *frame, size_t length, uint64_t key[4]) {
  uint8_t *bytes = (uint8_t *)key;
  const uint8_t *ip = frame + ETHERNET_HEADER;

  if (length < ETHERNET_HEADER + IPV4_HEADER || (frame[0] & 1) != 0) return false;
  memset(key, 0, 32);
  memcpy(bytes, frame, ETHERNET_HEADER);
  length -= ETHERNET_HEADER;
  switch (number16(frame + 12)) {
    case ETHERTYPE_IPV4:
      if (ip[0] != 0x45 || number16(ip + 2) < IPV4_HEADER || number16(ip + 2) > length) return false;
      memcpy(bytes + ETHERNET_HEADER, ip + IPV4_DESTINATION, 4);
      return true;
    case ETHERTYPE_IPV6:
      if (length <= IPV6_HEADER || ip[0] >> 4 != 6 || number16(ip + 4) > length - IPV6_HEADER) return false;
      if (ip[6] != NEXT_TCP && ip[6] != NEXT_UDP &&
          (ip[6] != NEXT_ICMPV6 || (ip[IPV6_HEADER] != ICMPV6_ECHO_REQUEST && ip[IPV6_HEADER] != ICMPV6_ECHO_REPLY)))
        return false;
      memcpy(bytes + ETHERNET_HEADER, ip + IPV6_DESTINATION, 16);
      return true;
    default:
      return false;
  }
}

static struct shortcut *place_of(struct shortcut *table, const uint64_t key[4]) {
  uint64_t h = (key[0] ^ key[2]) * 0x9e3779b97f4a7c15ull;

  h = (h ^ h >> 29 ^ key[1] ^ key[3]) * 0xbf58476d1ce4e5b9ull;
  return table + (h >> 40 & (PLACES - 1));
}

/* Whether the receiver takes the frame as it is. */
static bool carries(const struct shortcut *s, const uint8_t *header, size_t frame_length) {
  const unsigned flags = header[0];

  if ((flags & ~(unsigned)(VNET_NEEDS_CSUM | VNET_DATA_VALID)) != 0) return false;
  if (flags & VNET_NEEDS_CSUM) {
    if (!(s->takes & TAKES_CHECKSUM) || little16(header + 6) + little16(header + 8) + 2 > frame_length) return false;
  }
  switch (header[1] & ~VNET_GSO_ECN) {
    case 0:
      return frame_length <= s->longest;
    case VNET_GSO_TCPV4:
      return (s->takes & TAKES_TSO4) && little16(header + 4) != 0;
    case VNET_GSO_TCPV6:
      return (s->takes & TAKES_TSO6) && little16(header + 4) != 0;
    default:
      return false;
  }
}

const struct shortcut *shortcut_of(struct device *from, const uint8_t *data, size_t length) {
  uint64_t key[4];
  const struct shortcut *s;

  if (from->shortcuts == NULL || length < VNET_HEADER) return NULL;
  if (!key_of(data + VNET_HEADER, length - VNET_HEADER, key)) return NULL;
  s = place_of(from->shortcuts, key);
  if (s->generation != from->generation || memcmp(s->key, key, sizeof key) != 0) return NULL;
  return s->to->want_writable || !carries(s, data, length - VNET_HEADER) ? NULL : s;
}

struct device *pass_on(struct device *from, const struct shortcut *s, const uint8_t *data, size_t length) {
  if (write_frame(s->to, data, length) != TAKEN) return NULL;
  from->counters[RX_SHORT]++;
  from->counters[RX_SHORT_BYTES] += (double)length;
  s->to->counters[TX_SHORT]++;
  s->to->counters[TX_SHORT_BYTES] += (double)length;
  return s->to;
}

struct device *train_to(const struct shortcut *s) { return s->takes & TAKES_USO ? s->to : NULL; }

static void forget(struct device *d) {
  if (++d->generation != 0) return;
  /* The numbers have come round: places of 2^32 generations ago must not hold again. */
  if (d->shortcuts != NULL) memset(d->shortcuts, 0, PLACES * sizeof *d->shortcuts);
  d->generation = 1;
}

void leave_shortcuts(struct device *d) {
  free(d->shortcuts);
  d->shortcuts = NULL;
  free(d->train);
  d->train = NULL;
  for (struct device *other = open_devices(); other != NULL; other = other->next) {
    for (size_t i = 0; other->shortcuts != NULL && i < PLACES; i++)
      if (other->shortcuts[i].to == d) memset(&other->shortcuts[i], 0, sizeof *other->shortcuts);
  }
}

/* addShortcut(device, to, buffer, offset, length, longest, takes) → whether frames like this one can have a shortcut */
napi_value add_shortcut(napi_env env, napi_callback_info info) {
  void *data;
  size_t size;
  uint32_t offset, length, longest, takes;
  uint64_t key[4];
  bool possible;
  napi_value result;
  ARGUMENTS(7)
  DEVICE(d, argument[0], true);
  DEVICE(to, argument[1], true);

  if (!bytes_of(env, argument[2], napi_uint8_array, &data, &size)) return NULL;
  OK(napi_get_value_uint32(env, argument[3], &offset));
  OK(napi_get_value_uint32(env, argument[4], &length));
  OK(napi_get_value_uint32(env, argument[5], &longest));
  OK(napi_get_value_uint32(env, argument[6], &takes));
  if ((uint64_t)offset + length > size) {
    napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "the frame lies outside the buffer");
    return NULL;
  }
  possible = to != d && length > VNET_HEADER && key_of((uint8_t *)data + offset + VNET_HEADER, length - VNET_HEADER, key);
  if (possible) {
    struct shortcut *s;
    if (d->shortcuts == NULL) d->shortcuts = calloc(PLACES, sizeof *d->shortcuts);
    if (d->shortcuts == NULL) return throw_errno(env, "calloc", ENOMEM);
    s = place_of(d->shortcuts, key);
    memcpy(s->key, key, sizeof key);
    s->to = to;
    s->generation = d->generation;
    s->longest = longest < SLOT ? longest : SLOT;
    s->takes = takes & 15;
  }
  OK(napi_get_boolean(env, possible, &result));
  return result;
}

napi_value forget_shortcuts(napi_env env, napi_callback_info info) {
  ARGUMENTS(1)
  DEVICE(d, argument[0], false);
  forget(d);
  return NULL;
}
