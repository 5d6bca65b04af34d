/* The life of a device, and what JavaScript says to it; see device.h. */
#define _GNU_SOURCE
#include "device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const napi_type_tag device_tag = {0x6368616e67656f76ull, 0x65727461702d7475ull};

/* An environment has a thread of its own, and a device never leaves it. */
static _Thread_local struct device *first;

struct device *open_devices(void) { return first; }

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

void close_device(struct device *d) {
  if (d->closed) return;
  d->closed = true;
  *d->link = d->next;
  if (d->next != NULL) d->next->link = d->link;
  leave_shortcuts(d);
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

int arm(struct device *d) {
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

struct device *device_of(napi_env env, napi_value value, bool must_be_open) {
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

bool bytes_of(napi_env env, napi_value value, napi_typedarray_type wanted, void **data, size_t *length) {
  napi_typedarray_type type;

  if (napi_get_typedarray_info(env, value, &type, length, data, NULL, NULL) == napi_ok && type == wanted) return true;
  misuse(env, "not a typed array of the wanted kind");
  return false;
}

napi_value adopt(napi_env env, int fd, int ctl, int ifindex, napi_value callback) {
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
  d->generation = 1;
  d->link = &first;
  d->next = first;
  if (first != NULL) first->link = &d->next;
  first = d;
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

napi_value close_it(napi_env env, napi_callback_info info) {
  ARGUMENTS(1)
  DEVICE(d, argument[0], false);
  close_device(d);
  return NULL;
}

/* start(device, buffer, index): frames are read from now on */
napi_value start(napi_env env, napi_callback_info info) {
  void *data;
  size_t length;
  int err;
  ARGUMENTS(3)
  DEVICE(d, argument[0], true);

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

napi_value stop(napi_env env, napi_callback_info info) {
  ARGUMENTS(1)
  DEVICE(d, argument[0], true);
  d->reading = false;
  arm(d);
  return NULL;
}

/* reference(device, boolean): whether polling keeps the event loop alive */
napi_value reference(napi_env env, napi_callback_info info) {
  bool on;
  ARGUMENTS(2)
  DEVICE(d, argument[0], true);
  OK(napi_get_value_bool(env, argument[1], &on));
  if (on)
    uv_ref(d->poll);
  else
    uv_unref(d->poll);
  return NULL;
}

/* counters(device, Float64Array(14)): see enum counter */
napi_value counters(napi_env env, napi_callback_info info) {
  void *data;
  size_t length;
  ARGUMENTS(2)
  DEVICE(d, argument[0], false);

  if (!bytes_of(env, argument[1], napi_float64_array, &data, &length)) return NULL;
  if (d->packet && !d->closed) {
    unsigned drops;
    if (tt_packet_drops(d->fd, &drops) == 0) d->counters[RX_DROPPED] += drops;
  }
  memcpy(data, d->counters, sizeof(double) * (length < COUNTERS ? length : COUNTERS));
  return NULL;
}

napi_value descriptor(napi_env env, napi_callback_info info) {
  napi_value result;
  ARGUMENTS(1)
  DEVICE(d, argument[0], true);
  OK(napi_create_int32(env, d->fd, &result));
  return result;
}
