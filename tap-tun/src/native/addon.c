/*
 * Node-API face: a device is an external that owns a descriptor, a control socket and one poll handle in the event loop.
 *
 * Life of a device
 *   open/wrap  the poll handle is initialised, idle, and does not keep the loop alive; the callback is referenced weakly
 *   polling    while reading, or while a partial write waits for room: callback and buffers are referenced strongly
 *   closed     by close(), by the finalizer when the JavaScript side was collected, or by the environment's cleanup
 *              (process or worker end), whichever comes first; descriptors are closed at once, the poll handle's memory
 *              goes in the loop's close phase, the struct when both that and the finalizer are through
 *
 * The callback is called as callback(count, writable, errno): `count` frames stand in the buffer, their offsets and
 * lengths in the index as pairs; at most one call per wake-up, so other work of the loop comes in between.
 */
#define _GNU_SOURCE
#define NAPI_VERSION 8
#include "tap-tun.h"
#include "uv-poll.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <node_api.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Room that one read may need: vnet header, Ethernet header with two tags, 64 KiB of IP, rounded up. Also in src/native.ts. */
#define SLOT 65664u
/* Frames start at multiples of this in the batch buffer: with a 10-byte vnet header the IP header is 8-byte aligned. */
#define ALIGN 8u

enum counter { RX_FRAMES, RX_BYTES, RX_BATCHES, RX_ERRORS, TX_FRAMES, TX_BYTES, TX_REJECTED, TX_DROPPED, TX_WAITS, RX_DROPPED, COUNTERS };

struct device {
  napi_env env;
  tt_uv_handle *poll;
  napi_ref callback;
  napi_ref buffer;
  napi_ref index;
  napi_async_context async;
  napi_async_cleanup_hook_handle hook;
  int fd;
  int ctl;
  int ifindex;
  int events; /* what the poll handle waits for */
  bool packet; /* a packet socket */
  bool vnet_header;
  bool reading;
  bool want_writable;
  bool closed;
  bool poll_gone;
  bool finalized;
  double counters[COUNTERS];
};

static const napi_type_tag device_tag = {0x6368616e67656f76ull, 0x65727461702d7475ull};

#define OK(call)                        \
  do {                                  \
    if ((call) != napi_ok) {            \
      misuse(env, #call);               \
      return NULL;                      \
    }                                   \
  } while (0)

static void misuse(napi_env env, const char *what) {
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (!pending) napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", what);
}

/* Throws an Error with `errno` and `syscall`; the TypeScript side makes a TapError of it. */
static napi_value throw_errno(napi_env env, const char *call, int err) {
  napi_value message, error, value;

  if (napi_create_string_utf8(env, strerror(err), NAPI_AUTO_LENGTH, &message) != napi_ok) return NULL;
  if (napi_create_error(env, NULL, message, &error) != napi_ok) return NULL;
  if (napi_create_int32(env, err, &value) == napi_ok) napi_set_named_property(env, error, "errno", value);
  if (napi_create_string_utf8(env, call, NAPI_AUTO_LENGTH, &value) == napi_ok)
    napi_set_named_property(env, error, "syscall", value);
  napi_throw(env, error);
  return NULL;
}

static napi_value throw_failure(napi_env env, const struct tt_failure *failure) {
  return throw_errno(env, failure->call, failure->err);
}

static void release(struct device *d) {
  if (d->poll_gone && d->finalized) free(d);
}

static void on_poll_closed(tt_uv_handle *handle) {
  struct device *d = uv_handle_get_data(handle);

  free(handle);
  d->poll = NULL;
  d->poll_gone = true;
  if (d->hook != NULL) {
    napi_remove_async_cleanup_hook(d->hook);
    d->hook = NULL;
  }
  release(d);
}

static void forget(napi_env env, napi_ref *reference) {
  if (*reference != NULL) napi_delete_reference(env, *reference);
  *reference = NULL;
}

static void close_device(struct device *d) {
  if (d->closed) return;
  d->closed = true;
  d->reading = d->want_writable = false;
  if (d->poll != NULL) {
    uv_poll_stop(d->poll);
    uv_close(d->poll, on_poll_closed);
  }
  close(d->fd);
  if (d->ctl >= 0) close(d->ctl);
  d->fd = d->ctl = -1;
  forget(d->env, &d->callback);
  forget(d->env, &d->buffer);
  forget(d->env, &d->index);
  if (d->async != NULL) napi_async_destroy(d->env, d->async);
  d->async = NULL;
}

static void on_environment_end(napi_async_cleanup_hook_handle handle, void *data) {
  (void)handle;
  close_device(data);
}

static void on_collected(napi_env env, void *data, void *hint) {
  struct device *d = data;

  (void)env;
  (void)hint;
  d->finalized = true;
  close_device(d);
  release(d);
}

static void on_poll(tt_uv_handle *handle, int status, int events);

/* Makes the poll handle wait for what the device wants now. */
static int arm(struct device *d) {
  const int events = (d->reading ? TT_UV_READABLE : 0) | (d->want_writable ? TT_UV_WRITABLE : 0);
  uint32_t count;
  int err = 0;

  if (events == d->events) return 0;
  if (events == 0) {
    uv_poll_stop(d->poll);
    napi_reference_unref(d->env, d->callback, &count);
  } else {
    err = uv_poll_start(d->poll, events, on_poll);
    if (err != 0) return err;
    if (d->events == 0) napi_reference_ref(d->env, d->callback, &count);
  }
  d->events = events;
  return 0;
}

/* The device is gone or the descriptor broken: nothing more will come. */
static bool is_fatal(int err) {
  return err == EBADFD || err == EBADF || err == ENODEV || err == EPIPE || err == ENOTCONN || err == ECONNRESET;
}

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

/* Reads frames until the queue is empty or the batch is full. Returns their number, sets *err to a fatal errno or 0. */
static uint32_t drain(struct device *d, uint8_t *data, size_t size, uint32_t *index, size_t pairs, int *err) {
  size_t used = 0;
  uint32_t count = 0;

  *err = 0;
  while (count < pairs && size - used >= SLOT) {
    const ssize_t length = d->packet ? receive_frame(d, data + used, SLOT) : read(d->fd, data + used, SLOT);
    if (length > 0) {
      index[2 * count] = (uint32_t)used;
      index[2 * count + 1] = (uint32_t)length;
      count++;
      d->counters[RX_BYTES] += (double)length;
      used = (used + (size_t)length + ALIGN - 1) & ~(size_t)(ALIGN - 1);
      if (used > size) break;
      continue;
    }
    if (length == 0) { /* a wrapped socket whose peer is gone; TUN and packet sockets never return 0 */
      *err = EPIPE;
      break;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN) break;
    if (is_fatal(errno)) {
      *err = errno;
      break;
    }
    d->counters[RX_ERRORS]++; /* ENETDOWN and the like: the condition was consumed by this read */
    break;
  }
  if (count > 0) {
    d->counters[RX_FRAMES] += count;
    d->counters[RX_BATCHES]++;
  }
  return count;
}

static void on_poll(tt_uv_handle *handle, int status, int events) {
  struct device *d = uv_handle_get_data(handle);
  napi_env env = d->env;
  napi_handle_scope scope;
  napi_value callback, global, buffer, index, arguments[3], result;
  uint32_t count = 0;
  int err = 0;
  bool writable = false;

  if (d->closed || napi_open_handle_scope(env, &scope) != napi_ok) return;
  if (d->reading && (status < 0 || (events & TT_UV_READABLE))) {
    void *data = NULL, *pairs = NULL;
    size_t size = 0, words = 0;
    if (napi_get_reference_value(env, d->buffer, &buffer) == napi_ok && buffer != NULL &&
        napi_get_reference_value(env, d->index, &index) == napi_ok && index != NULL &&
        napi_get_typedarray_info(env, buffer, NULL, &size, &data, NULL, NULL) == napi_ok &&
        napi_get_typedarray_info(env, index, NULL, &words, &pairs, NULL, NULL) == napi_ok && size >= SLOT && words >= 2)
      count = drain(d, data, size, pairs, words / 2, &err);
    else
      err = EFAULT; /* somebody transferred the buffers away */
  }
  if (d->want_writable && (status < 0 || (events & TT_UV_WRITABLE))) {
    writable = true;
    d->want_writable = false;
  }
  if (err != 0) d->reading = d->want_writable = false;
  /* POLLERR: libuv has stopped the handle. The read above consumed the condition, or found the end (err). */
  if (status < 0 && d->reading && uv_poll_start(d->poll, TT_UV_READABLE, on_poll) == 0) d->events = TT_UV_READABLE;
  if ((count > 0 || writable || err != 0) && napi_get_reference_value(env, d->callback, &callback) == napi_ok &&
      callback != NULL && napi_get_global(env, &global) == napi_ok) {
    napi_create_uint32(env, count, &arguments[0]);
    napi_get_boolean(env, writable, &arguments[1]);
    napi_create_int32(env, err, &arguments[2]);
    arm(d); /* before the call: it may start, stop, write or close */
    if (napi_make_callback(env, d->async, global, callback, 3, arguments, &result) == napi_pending_exception) {
      napi_value error;
      if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
    }
  }
  napi_close_handle_scope(env, scope);
}

/* ---- arguments ---- */

static struct device *device_of(napi_env env, napi_value value, bool must_be_open) {
  void *data = NULL;
  bool ours = false;
  struct device *d;

  if (napi_check_object_type_tag(env, value, &device_tag, &ours) != napi_ok || !ours ||
      napi_get_value_external(env, value, &data) != napi_ok) {
    misuse(env, "not a device");
    return NULL;
  }
  d = data;
  if (must_be_open && d->closed) {
    throw_errno(env, "closed", EBADF);
    return NULL;
  }
  return d;
}

#define MAX_ARGUMENTS 7
#define ARGUMENTS(wanted)                                                          \
  napi_value argument[MAX_ARGUMENTS];                                              \
  size_t given = MAX_ARGUMENTS;                                                    \
  OK(napi_get_cb_info(env, info, &given, argument, NULL, NULL));                   \
  if (given < (wanted)) {                                                          \
    napi_throw_type_error(env, "ERR_MISSING_ARGS", "too few arguments");           \
    return NULL;                                                                   \
  }
#define DEVICE(name, must_be_open)                                 \
  struct device *name = device_of(env, argument[0], must_be_open); \
  if (name == NULL) return NULL

static bool bytes_of(napi_env env, napi_value value, napi_typedarray_type wanted, void **data, size_t *length) {
  napi_typedarray_type type;

  if (napi_get_typedarray_info(env, value, &type, length, data, NULL, NULL) == napi_ok && type == wanted) return true;
  misuse(env, "not a typed array of the wanted kind");
  return false;
}

/* ---- life ---- */

static napi_value adopt(napi_env env, int fd, int ctl, int ifindex, napi_value callback) {
  struct uv_loop_s *loop;
  struct device *d = calloc(1, sizeof *d);
  napi_value external, name;
  int err;

  if (d != NULL) d->poll = calloc(1, uv_handle_size(TT_UV_POLL));
  if (d == NULL || d->poll == NULL) {
    free(d);
    close(fd);
    if (ctl >= 0) close(ctl);
    return throw_errno(env, "calloc", ENOMEM);
  }
  d->env = env;
  d->fd = fd;
  d->ctl = ctl;
  d->ifindex = ifindex;
  err = napi_get_uv_event_loop(env, &loop) == napi_ok ? uv_poll_init(loop, d->poll, fd) : -EINVAL;
  if (err != 0) {
    free(d->poll);
    free(d);
    close(fd);
    if (ctl >= 0) close(ctl);
    return throw_errno(env, "uv_poll_init", -err);
  }
  uv_handle_set_data(d->poll, d);
  if (napi_create_external(env, d, on_collected, NULL, &external) != napi_ok) {
    d->finalized = true;
    close_device(d);
    misuse(env, "napi_create_external");
    return NULL;
  }
  /* From here on a failure leaves the device to the finalizer. */
  OK(napi_type_tag_object(env, external, &device_tag));
  OK(napi_create_reference(env, callback, 0, &d->callback));
  OK(napi_create_string_utf8(env, "tap-tun", NAPI_AUTO_LENGTH, &name));
  OK(napi_async_init(env, NULL, name, &d->async));
  OK(napi_add_async_cleanup_hook(env, on_environment_end, d, &d->hook));
  return external;
}

/* openDevice(netns | null, name, flags, offload, sendBuffer, receiveBuffer, callback) → [device, name, index, offload] */
static napi_value open_device(napi_env env, napi_callback_info info) {
  struct tt_open_request r;
  char netns[4096];
  size_t length;
  napi_valuetype type;
  napi_value device, result, value;
  ARGUMENTS(7)

  memset(&r, 0, sizeof r);
  OK(napi_typeof(env, argument[0], &type));
  if (type == napi_string) {
    OK(napi_get_value_string_utf8(env, argument[0], netns, sizeof netns, &length));
    r.netns = netns;
  }
  OK(napi_get_value_string_utf8(env, argument[1], r.name, sizeof r.name, &length));
  OK(napi_get_value_uint32(env, argument[2], &r.flags));
  OK(napi_get_value_uint32(env, argument[3], &r.offload));
  OK(napi_get_value_int32(env, argument[4], &r.send_buffer));
  OK(napi_get_value_int32(env, argument[5], &r.receive_buffer));
  OK(napi_typeof(env, argument[6], &type));
  if (type != napi_function) {
    misuse(env, "callback is no function");
    return NULL;
  }
  if (tt_open(&r) < 0) return throw_failure(env, &r.failure);
  device = adopt(env, r.fd, r.ctl, r.index, argument[6]);
  if (device == NULL) return NULL;
  if (r.flags & TT_PACKET) {
    void *data;
    OK(napi_get_value_external(env, device, &data));
    ((struct device *)data)->packet = true;
    ((struct device *)data)->vnet_header = (r.flags & TT_VNET_HDR) != 0;
  }
  OK(napi_create_array_with_length(env, 4, &result));
  OK(napi_set_element(env, result, 0, device));
  OK(napi_create_string_utf8(env, r.name, strnlen(r.name, IFNAMSIZ), &value));
  OK(napi_set_element(env, result, 1, value));
  OK(napi_create_int32(env, r.index, &value));
  OK(napi_set_element(env, result, 2, value));
  OK(napi_create_uint32(env, r.offload, &value));
  OK(napi_set_element(env, result, 3, value));
  return result;
}

/* wrapDescriptor(fd, callback) → device, which owns the descriptor from now on */
static napi_value wrap_descriptor(napi_env env, napi_callback_info info) {
  int32_t fd;
  napi_valuetype type;
  ARGUMENTS(2)

  OK(napi_get_value_int32(env, argument[0], &fd));
  OK(napi_typeof(env, argument[1], &type));
  if (type != napi_function) {
    misuse(env, "callback is no function");
    return NULL;
  }
  if (fd < 0 || fcntl(fd, F_GETFD) < 0) return throw_errno(env, "fcntl", EBADF);
  return adopt(env, fd, -1, 0, argument[1]);
}

/* packetPair() → [fd, fd]: two ends that keep packet boundaries, as a device does */
static napi_value packet_pair(napi_env env, napi_callback_info info) {
  int ends[2];
  napi_value result, value;

  (void)info;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0)
    return throw_errno(env, "socketpair", errno);
  OK(napi_create_array_with_length(env, 2, &result));
  for (uint32_t i = 0; i < 2; i++) {
    OK(napi_create_int32(env, ends[i], &value));
    OK(napi_set_element(env, result, i, value));
  }
  return result;
}

static napi_value close_it(napi_env env, napi_callback_info info) {
  ARGUMENTS(1)
  DEVICE(d, false);
  close_device(d);
  return NULL;
}

/* start(device, buffer, index): frames are read from now on */
static napi_value start(napi_env env, napi_callback_info info) {
  void *data;
  size_t length;
  int err;
  ARGUMENTS(3)
  DEVICE(d, true);

  if (!bytes_of(env, argument[1], napi_uint8_array, &data, &length)) return NULL;
  if (length < SLOT) return throw_errno(env, "start", ENOBUFS);
  if (!bytes_of(env, argument[2], napi_uint32_array, &data, &length)) return NULL;
  if (length < 2) return throw_errno(env, "start", ENOBUFS);
  forget(env, &d->buffer);
  forget(env, &d->index);
  OK(napi_create_reference(env, argument[1], 1, &d->buffer));
  OK(napi_create_reference(env, argument[2], 1, &d->index));
  d->reading = true;
  err = arm(d);
  if (err != 0) return throw_errno(env, "uv_poll_start", -err);
  return NULL;
}

static napi_value stop(napi_env env, napi_callback_info info) {
  ARGUMENTS(1)
  DEVICE(d, true);
  d->reading = false;
  arm(d);
  return NULL;
}

/* reference(device, boolean): whether polling keeps the event loop alive */
static napi_value reference(napi_env env, napi_callback_info info) {
  bool on;
  ARGUMENTS(2)
  DEVICE(d, true);
  OK(napi_get_value_bool(env, argument[1], &on));
  if (on)
    uv_ref(d->poll);
  else
    uv_unref(d->poll);
  return NULL;
}

/* ---- writing ---- */

enum write_result { TAKEN, FULL, BROKEN };

static enum write_result write_frame(struct device *d, const uint8_t *data, size_t length) {
  for (;;) {
    if (write(d->fd, data, length) >= 0) {
      d->counters[TX_FRAMES]++;
      d->counters[TX_BYTES] += (double)length;
      return TAKEN;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return FULL;
    if (is_fatal(errno)) return BROKEN;
    /* EINVAL, EMSGSIZE: no valid frame or header. EIO, ENETDOWN: interface is down. ENOBUFS, ENOMEM: the queue behind is full. */
    d->counters[errno == EINVAL || errno == EMSGSIZE || errno == EFAULT ? TX_REJECTED : TX_DROPPED]++;
    return TAKEN;
  }
}

/* A partial write ends in a callback with writable = true as soon as there is room. */
static void wait_for_room(struct device *d) {
  d->counters[TX_WAITS]++;
  d->want_writable = true;
  arm(d);
}

/* write(device, buffer, index, first, count) → how many frames of index pairs [first, first + count) were taken */
static napi_value write_many(napi_env env, napi_callback_info info) {
  void *data, *words;
  size_t size, length;
  uint32_t first, count, done;
  napi_value result;
  ARGUMENTS(5)
  DEVICE(d, true);

  if (!bytes_of(env, argument[1], napi_uint8_array, &data, &size)) return NULL;
  if (!bytes_of(env, argument[2], napi_uint32_array, &words, &length)) return NULL;
  OK(napi_get_value_uint32(env, argument[3], &first));
  OK(napi_get_value_uint32(env, argument[4], &count));
  if ((uint64_t)first + count > length / 2) {
    napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "the index holds fewer frames");
    return NULL;
  }
  for (done = 0; done < count; done++) {
    const uint32_t *pair = (const uint32_t *)words + 2 * ((size_t)first + done);
    enum write_result outcome;
    if ((uint64_t)pair[0] + pair[1] > size) {
      napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "a frame lies outside the buffer");
      return NULL;
    }
    outcome = write_frame(d, (const uint8_t *)data + pair[0], pair[1]);
    if (outcome == FULL) {
      wait_for_room(d);
      break;
    }
    if (outcome == BROKEN) {
      if (done == 0) return throw_errno(env, "write", errno);
      wait_for_room(d); /* "room" comes at once, and the next write reports the error */
      break;
    }
  }
  OK(napi_create_uint32(env, done, &result));
  return result;
}

/* writeOne(device, buffer, offset, length) → whether the frame was taken */
static napi_value write_one(napi_env env, napi_callback_info info) {
  void *data;
  size_t size;
  uint32_t offset, length;
  enum write_result outcome;
  napi_value result;
  ARGUMENTS(4)
  DEVICE(d, true);

  if (!bytes_of(env, argument[1], napi_uint8_array, &data, &size)) return NULL;
  OK(napi_get_value_uint32(env, argument[2], &offset));
  OK(napi_get_value_uint32(env, argument[3], &length));
  if ((uint64_t)offset + length > size) {
    napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "the frame lies outside the buffer");
    return NULL;
  }
  outcome = write_frame(d, (const uint8_t *)data + offset, length);
  if (outcome == BROKEN) return throw_errno(env, "write", errno);
  if (outcome == FULL) wait_for_room(d);
  OK(napi_get_boolean(env, outcome == TAKEN, &result));
  return result;
}

/* counters(device, Float64Array(10)): see enum counter */
static napi_value counters(napi_env env, napi_callback_info info) {
  void *data;
  size_t length;
  ARGUMENTS(2)
  DEVICE(d, false);

  if (!bytes_of(env, argument[1], napi_float64_array, &data, &length)) return NULL;
  if (d->packet && !d->closed) {
    unsigned drops;
    if (tt_packet_drops(d->fd, &drops) == 0) d->counters[RX_DROPPED] += drops;
  }
  memcpy(data, d->counters, sizeof(double) * (length < COUNTERS ? length : COUNTERS));
  return NULL;
}

/* ---- the interface behind it ---- */

static napi_value get(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  uint32_t what;
  int value;
  napi_value result;
  ARGUMENTS(2)
  DEVICE(d, true);

  OK(napi_get_value_uint32(env, argument[1], &what));
  if (tt_get(d->ctl, d->ifindex, (enum tt_attribute)what, &value, &failure) < 0) return throw_failure(env, &failure);
  OK(napi_create_int32(env, value, &result));
  return result;
}

static napi_value set(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  uint32_t what;
  int32_t value;
  ARGUMENTS(3)
  DEVICE(d, true);

  OK(napi_get_value_uint32(env, argument[1], &what));
  OK(napi_get_value_int32(env, argument[2], &value));
  if (tt_set(d->ctl, d->ifindex, (enum tt_attribute)what, value, &failure) < 0) return throw_failure(env, &failure);
  return NULL;
}

static napi_value name(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  char text[IFNAMSIZ];
  napi_value result;
  ARGUMENTS(1)
  DEVICE(d, true);

  if (tt_name(d->ctl, d->ifindex, text, &failure) < 0) return throw_failure(env, &failure);
  OK(napi_create_string_utf8(env, text, strnlen(text, IFNAMSIZ), &result));
  return result;
}

/* mac(device, Uint8Array(6), set) */
static napi_value mac(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  void *data;
  size_t length;
  bool write_it;
  ARGUMENTS(3)
  DEVICE(d, true);

  if (!bytes_of(env, argument[1], napi_uint8_array, &data, &length)) return NULL;
  OK(napi_get_value_bool(env, argument[2], &write_it));
  if (length != 6) return throw_errno(env, "mac", EINVAL);
  if ((write_it ? tt_set_mac(d->ctl, d->ifindex, data, &failure) : tt_get_mac(d->ctl, d->ifindex, data, &failure)) < 0)
    return throw_failure(env, &failure);
  return NULL;
}

/* setIpv4(device, address, mask): numbers in host order */
static napi_value set_ipv4(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  uint32_t address, mask;
  ARGUMENTS(3)
  DEVICE(d, true);

  OK(napi_get_value_uint32(env, argument[1], &address));
  OK(napi_get_value_uint32(env, argument[2], &mask));
  if (tt_set_ipv4(d->ctl, d->ifindex, __builtin_bswap32(address), __builtin_bswap32(mask), &failure) < 0)
    return throw_failure(env, &failure);
  return NULL;
}

/* setPersist(device, boolean) */
static napi_value set_persist(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  bool on;
  ARGUMENTS(2)
  DEVICE(d, true);

  OK(napi_get_value_bool(env, argument[1], &on));
  if (tt_set_persist(d->fd, on, &failure) < 0) return throw_failure(env, &failure);
  return NULL;
}

static napi_value descriptor(napi_env env, napi_callback_info info) {
  napi_value result;
  ARGUMENTS(1)
  DEVICE(d, true);
  OK(napi_create_int32(env, d->fd, &result));
  return result;
}

static napi_value probe(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  unsigned features = 0;
  napi_value result;

  (void)info;
  if (tt_probe(&features, &failure) < 0) return throw_failure(env, &failure);
  OK(napi_create_uint32(env, features, &result));
  return result;
}

static napi_value init(napi_env env, napi_value exports) {
  static const struct {
    const char *name;
    napi_callback function;
  } functions[] = {
      {"openDevice", open_device}, {"wrapDescriptor", wrap_descriptor}, {"packetPair", packet_pair}, {"close", close_it},
      {"start", start},            {"stop", stop},                      {"reference", reference},    {"write", write_many},
      {"writeOne", write_one},     {"counters", counters},              {"get", get},                {"set", set},
      {"name", name},              {"mac", mac},                        {"setIpv4", set_ipv4},       {"descriptor", descriptor},
      {"probe", probe},            {"setPersist", set_persist},
  };
  const char *type = uv_handle_type_name(TT_UV_POLL);

  if (type == NULL || strcmp(type, "poll") != 0) {
    napi_throw_error(env, "ERR_UNSUPPORTED_LIBUV", "this node's libuv numbers its handles differently");
    return NULL;
  }
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    napi_value function;
    OK(napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, NULL, &function));
    OK(napi_set_named_property(env, exports, functions[i].name, function));
  }
  return exports;
}

NAPI_MODULE(tap_tun, init)
