/* What JavaScript sends. */
#define _GNU_SOURCE
#include "device.h"

#include <errno.h>
#include <unistd.h>

enum write_result write_frame(struct device *d, const uint8_t *data, size_t length) {
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
napi_value write_many(napi_env env, napi_callback_info info) {
  void *data, *words;
  size_t size, length;
  uint32_t first, count, done;
  napi_value result;
  ARGUMENTS(5)
  DEVICE(d, argument[0], true);

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
napi_value write_one(napi_env env, napi_callback_info info) {
  void *data;
  size_t size;
  uint32_t offset, length;
  enum write_result outcome;
  napi_value result;
  ARGUMENTS(4)
  DEVICE(d, argument[0], true);

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
