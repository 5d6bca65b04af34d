/*
 * What the poll wakes: frames are read, one after the other, and either take a shortcut or go to JavaScript in one batch.
 *
 * The callback is called as callback(count, writable, errno): `count` frames stand in the buffer, their offsets and
 * lengths in the index as pairs; at most one call per wake-up, so other work of the loop comes in between.
 */
#define _GNU_SOURCE
#include "device.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Frames start at multiples of this in the batch buffer: with a 10-byte vnet header the IP header is 8-byte aligned. */
#define ALIGN 8u
/* Bytes that may take shortcuts in one wake-up before others get their turn. */
#define SHORTCUT_BYTES (512u * 1024u)

/*
 * One frame of a packet socket. The kernel takes an 802.1Q tag out of the frame and tells it in a control message; here it is
 * put back, behind the MAC addresses, so that nobody takes a tagged frame for an untagged one.
 */
static ssize_t receive_frame(struct device *d, uint8_t *data, size_t size) {
  const size_t header = d->vnet_header ? sizeof(struct virtio_net_hdr) : 0;
  const size_t macs = header + 12;
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
  } control;
  struct iovec part = {data, size - 4};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  const ssize_t length = recvmsg(d->fd, &message, 0);
  struct tpacket_auxdata aux;
  struct cmsghdr *c = length > 0 ? CMSG_FIRSTHDR(&message) : NULL;
  uint16_t tag[2];

  if (c == NULL || c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA || (size_t)length < macs) return length;
  memcpy(&aux, CMSG_DATA(c), sizeof aux);
  if (!(aux.tp_status & TP_STATUS_VLAN_VALID)) return length;
  memmove(data + macs + 4, data + macs, (size_t)length - macs);
  tag[0] = htons(aux.tp_status & TP_STATUS_VLAN_TPID_VALID ? aux.tp_vlan_tpid : ETH_P_8021Q);
  tag[1] = htons(aux.tp_vlan_tci);
  memcpy(data + macs, tag, sizeof tag);
  if (d->vnet_header) {
    struct virtio_net_hdr *v = (struct virtio_net_hdr *)data;
    if (v->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) v->csum_start += 4;
    if (v->hdr_len != 0) v->hdr_len += 4;
  }
  return length + 4;
}

/* What one wake-up has read: `count` frames for JavaScript in `data`, with their places in `index`; the other `passed` took shortcuts. */
struct batch {
  uint8_t *data;
  size_t size, used;
  uint32_t *index;
  size_t pairs;
  uint32_t count, passed;
  struct device *passed_to; /* where the last shortcut led, or NULL */
};

static void send_or_unpack(struct device *d, struct batch *b) {
  struct device *to = send_train(d);

  if (to != NULL) {
    b->passed_to = to;
    return;
  }
  b->count = unpack_train(d, b->data, &b->used, b->index);
  b->passed -= b->count;
}

/* Whether the frame went where a shortcut leads, or is in a train that will. */
static bool took_shortcut(struct device *d, struct batch *b, const uint8_t *frame, size_t length) {
  /* With the first frame that takes none the others have to wait behind it. */
  const struct shortcut *s = b->count == 0 ? shortcut_of(d, frame, length) : NULL;
  struct device *to;

  if (s != NULL && continue_train(d, s, frame, length)) {
    if (train_is_full(d)) send_or_unpack(d, b);
    return true;
  }
  if (has_train(d)) send_or_unpack(d, b);
  if (s == NULL || b->count > 0) return false;
  /* The first frame goes at once. Where there is room for one frame only, a train could not be unpacked before the next. */
  if (b->passed > 1 && b->size >= 2 * SLOT && begin_train(d, s, frame, length)) return true;
  to = pass_on(d, s, frame, length);
  if (to != NULL) b->passed_to = to;
  return to != NULL;
}

/* Reads frames until the queue is empty or the batch is full. Frames that take a shortcut count for it. A fatal errno, or 0. */
static int drain(struct device *d, struct batch *b) {
  size_t passed_bytes = 0;
  int err = 0;

  while (b->count + b->passed < b->pairs && b->size - b->used >= SLOT && passed_bytes < SHORTCUT_BYTES) {
    /* A train may have to be unpacked in front of this frame. */
    uint8_t *frame = b->data + (has_train(d) ? SLOT : b->used);
    const ssize_t length = d->packet ? receive_frame(d, frame, SLOT) : read(d->fd, frame, SLOT);
    if (length > 0) {
      d->counters[RX_FRAMES]++;
      d->counters[RX_BYTES] += (double)length;
      b->passed++;
      if (took_shortcut(d, b, frame, (size_t)length)) {
        passed_bytes += (size_t)length;
        continue;
      }
      b->passed--;
      if (frame != b->data + b->used) memmove(b->data + b->used, frame, (size_t)length);
      b->index[2 * b->count] = (uint32_t)b->used;
      b->index[2 * b->count + 1] = (uint32_t)length;
      b->count++;
      b->used = (b->used + (size_t)length + ALIGN - 1) & ~(size_t)(ALIGN - 1);
      if (b->used > b->size) break;
      continue;
    }
    if (length == 0) { /* a wrapped socket whose peer is gone; TUN and packet sockets never return 0 */
      err = EPIPE;
      break;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN) break;
    if (is_fatal(errno)) {
      err = errno;
      break;
    }
    d->counters[RX_ERRORS]++; /* ENETDOWN and the like: the condition was consumed by this read */
    break;
  }
  if (has_train(d)) send_or_unpack(d, b);
  if (b->count > 0) d->counters[RX_BATCHES]++;
  return err;
}

/* Reads and calls back as the events say. The device to which frames took shortcuts, if JavaScript was not called. */
static struct device *serve(struct device *d, int status, int events) {
  napi_env env = d->env;
  napi_handle_scope scope;
  napi_value callback, global, buffer, index, arguments[3], result;
  struct batch b = {0};
  int err = 0;
  bool writable = false;

  if (d->closed || napi_open_handle_scope(env, &scope) != napi_ok) return NULL;
  if (d->reading && (status < 0 || (events & TT_UV_READABLE))) {
    void *data = NULL, *pairs = NULL;
    size_t words = 0;
    if (napi_get_reference_value(env, d->buffer, &buffer) == napi_ok && buffer != NULL &&
        napi_get_reference_value(env, d->index, &index) == napi_ok && index != NULL &&
        napi_get_typedarray_info(env, buffer, NULL, &b.size, &data, NULL, NULL) == napi_ok &&
        napi_get_typedarray_info(env, index, NULL, &words, &pairs, NULL, NULL) == napi_ok && b.size >= SLOT && words >= 2) {
      b.data = data;
      b.index = pairs;
      b.pairs = words / 2;
      err = drain(d, &b);
    } else {
      err = EFAULT; /* somebody transferred the buffers away */
    }
  }
  if (d->want_writable && (status < 0 || (events & TT_UV_WRITABLE))) {
    writable = true;
    d->want_writable = false;
  }
  if (err != 0) d->reading = d->want_writable = false;
  /* POLLERR: libuv has stopped the handle. The read above consumed the condition, or found the end (err). */
  if (status < 0 && d->reading && uv_poll_start(d->poll, TT_UV_READABLE, on_poll) == 0) d->events = TT_UV_READABLE;
  if ((b.count > 0 || writable || err != 0) && napi_get_reference_value(env, d->callback, &callback) == napi_ok &&
      callback != NULL && napi_get_global(env, &global) == napi_ok) {
    napi_create_uint32(env, b.count, &arguments[0]);
    napi_get_boolean(env, writable, &arguments[1]);
    napi_create_int32(env, err, &arguments[2]);
    arm(d); /* before the call: it may start, stop, write or close */
    b.passed_to = NULL;
    if (napi_make_callback(env, d->async, global, callback, 3, arguments, &result) == napi_pending_exception) {
      napi_value error;
      if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
    }
  }
  napi_close_handle_scope(env, scope);
  return b.passed_to;
}

void on_poll(tt_uv_handle *handle, int status, int events) {
  struct device *to = serve(uv_handle_get_data(handle), status, events);

  /* What answers often stands there already: the kernel's side of a TAP answers a ping within the write. */
  if (to != NULL && to->reading && to->shortcuts != NULL) serve(to, 0, TT_UV_READABLE);
}
