/*
 * Node-API face of the rings: an addon of its own, because it goes into processes that run foreign code and shall be able to do
 * nothing but this. It opens no device and no file.
 *
 * Life of an end
 *   asking   the partition's side: `hello` is sent on the port's socket, the answer is awaited
 *   joined   both rings are mapped; the socket carries bells, and its end is the other side's end
 *   closed   by close(), by the finalizer when JavaScript has let go of it before start(), or by the environment's end
 *
 * The socket is a duplicate of the descriptor that was given: whoever had it closes his own. Its flags are not the other side's,
 * as those of an eventfd or a pipe would be, so no call on it can be made to wait. The mapping stays until the last of end and
 * array buffers is gone.
 */
#define _GNU_SOURCE
#include "../errors.h"
#include "../uv-poll.h"
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * A packet as a stream with virtio-net headers carries it, of ethertype 0x88B6 (local experimental 2), from and to nobody. Asked
 * with it, a side that knows no rings drops it; the answer is the same bytes with the memory's descriptor beside them.
 */
static const uint8_t hello[48] = "\0\0\0\x28\0\0\0\x0a"
                                 "\0\0\0\0\0\0\0\0\0\0"
                                 "\0\0\0\0\0\0\0\0\0\0\0\0\x88\xb6"
                                 "changeover ring";

enum told { RUNG = 1, ENDED = 2, JOINED = 4, STREAM = 8 }; /* also in src/ring.ts */

struct end {
  napi_env env;
  tt_uv_handle *poll;
  napi_ref callback;
  napi_async_context async;
  napi_async_cleanup_hook_handle hook;
  int fd;
  struct ring *ring;
  bool asking;
  bool started;
  bool closed;
  bool poll_gone;
  bool finalized;
};

static const napi_type_tag end_tag = {0x6368616e67656f76ull, 0x65722072696e6773ull};

static void release(struct end *e) {
  if (e->poll_gone && e->finalized) free(e);
}

static void on_poll_closed(tt_uv_handle *handle) {
  struct end *e = uv_handle_get_data(handle);

  free(handle);
  e->poll = NULL;
  e->poll_gone = true;
  if (e->hook != NULL) {
    napi_remove_async_cleanup_hook(e->hook);
    e->hook = NULL;
  }
  release(e);
}

static void close_end(struct end *e) {
  if (e->closed) return;
  e->closed = true;
  uv_poll_stop(e->poll);
  uv_close(e->poll, on_poll_closed);
  close(e->fd);
  e->fd = -1;
  if (e->ring != NULL) ring_let_go(e->ring);
  e->ring = NULL;
  if (e->callback != NULL) napi_delete_reference(e->env, e->callback);
  e->callback = NULL;
  if (e->async != NULL) napi_async_destroy(e->env, e->async);
  e->async = NULL;
}

static void on_environment_end(napi_async_cleanup_hook_handle handle, void *data) {
  (void)handle;
  close_end(data);
}

static void on_collected(napi_env env, void *data, void *hint) {
  struct end *e = data;

  (void)env;
  (void)hint;
  e->finalized = true;
  close_end(e);
  release(e);
}

/* Takes over a descriptor of its own, which is closed when it fails. */
static napi_value make_end(napi_env env, int fd, napi_value callback, struct end **made) {
  struct uv_loop_s *loop;
  struct end *e = calloc(1, sizeof *e);
  napi_value external, name;
  int err;

  if (e != NULL) e->poll = calloc(1, uv_handle_size(TT_UV_POLL));
  if (e == NULL || e->poll == NULL) {
    free(e);
    close(fd);
    return throw_errno(env, "calloc", ENOMEM);
  }
  e->env = env;
  e->fd = fd;
  err = napi_get_uv_event_loop(env, &loop) == napi_ok ? uv_poll_init(loop, e->poll, fd) : -EINVAL;
  if (err != 0) {
    free(e->poll);
    free(e);
    close(fd);
    return throw_errno(env, "uv_poll_init", -err);
  }
  uv_handle_set_data(e->poll, e);
  if (napi_create_external(env, e, on_collected, NULL, &external) != napi_ok) {
    e->finalized = true;
    close_end(e);
    misuse(env, "napi_create_external");
    return NULL;
  }
  /* From here on a failure leaves the end to the finalizer. */
  OK(napi_type_tag_object(env, external, &end_tag));
  OK(napi_create_reference(env, callback, 0, &e->callback));
  OK(napi_create_string_utf8(env, "port ring", NAPI_AUTO_LENGTH, &name));
  OK(napi_async_init(env, NULL, name, &e->async));
  OK(napi_add_async_cleanup_hook(env, on_environment_end, e, &e->hook));
  *made = e;
  return external;
}

static struct end *end_of(napi_env env, napi_value value, bool must_be_joined) {
  void *data = NULL;
  bool ours = false;
  struct end *e;

  if (napi_check_object_type_tag(env, value, &end_tag, &ours) != napi_ok || !ours ||
      napi_get_value_external(env, value, &data) != napi_ok) {
    misuse(env, "not an end of a ring");
    return NULL;
  }
  e = data;
  if (must_be_joined && (e->closed || e->ring == NULL)) {
    throw_errno(env, "closed", EBADF);
    return NULL;
  }
  return e;
}

#define MAX_ARGUMENTS 5
#define ARGUMENTS(wanted)                                                \
  napi_value argument[MAX_ARGUMENTS];                                    \
  size_t given = MAX_ARGUMENTS;                                          \
  OK(napi_get_cb_info(env, info, &given, argument, NULL, NULL));         \
  if (given < (wanted)) {                                                \
    napi_throw_type_error(env, "ERR_MISSING_ARGS", "too few arguments"); \
    return NULL;                                                         \
  }
#define END(name, argument)                             \
  struct end *name = end_of(env, argument, true);       \
  if (name == NULL) return NULL

static bool bytes_of(napi_env env, napi_value value, napi_typedarray_type wanted, void **data, size_t *length) {
  napi_typedarray_type type;

  if (napi_get_typedarray_info(env, value, &type, length, data, NULL, NULL) == napi_ok && type == wanted) return true;
  misuse(env, "not a typed array of the wanted kind");
  return false;
}

/* A bell that finds the socket full of bells is not needed; one that finds nobody is not missed: the poll tells the end. */
static void ring_bell(const struct end *e) { (void)!send(e->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL); }

/* ---- what the poll wakes */

/* Looks at what came before taking it: if it is a frame, it is left to the stream. */
static unsigned hear_answer(struct end *e) {
  uint8_t heard[sizeof hello];
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec part = {heard, sizeof heard};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  const ssize_t there = recv(e->fd, heard, sizeof heard, MSG_PEEK | MSG_DONTWAIT);
  struct cmsghdr *c;
  int memory, err;

  if (there < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (there <= 0) return ENDED;
  if (there != sizeof hello || memcmp(heard, hello, sizeof hello) != 0) return STREAM;
  if (recvmsg(e->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != sizeof hello) return ENDED;
  c = CMSG_FIRSTHDR(&message);
  if (c == NULL) return STREAM; /* an answer without memory */
  if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof memory))
    return ENDED;
  memcpy(&memory, CMSG_DATA(c), sizeof memory);
  err = ring_open(&e->ring, memory);
  close(memory);
  if (err != 0) return ENDED;
  e->asking = false;
  return JOINED;
}

static unsigned hear_bells(struct end *e) {
  char bells[512];
  const ssize_t count = recv(e->fd, bells, sizeof bells, MSG_DONTWAIT);

  if (count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR))) return RUNG;
  return ENDED;
}

static void on_poll(tt_uv_handle *handle, int status, int events) {
  struct end *e = uv_handle_get_data(handle);
  napi_env env = e->env;
  napi_handle_scope scope;
  napi_value callback, global, told, result;
  unsigned what;

  (void)events;
  if (e->closed) return;
  what = status < 0 ? ENDED : e->asking ? hear_answer(e) : hear_bells(e);
  if (what == 0 || napi_open_handle_scope(env, &scope) != napi_ok) return;
  if (what == ENDED || what == STREAM) uv_poll_stop(handle);
  if (napi_get_reference_value(env, e->callback, &callback) == napi_ok && callback != NULL &&
      napi_get_global(env, &global) == napi_ok && napi_create_uint32(env, what, &told) == napi_ok &&
      napi_make_callback(env, e->async, global, callback, 1, &told, &result) == napi_pending_exception) {
    napi_value error;
    if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
  }
  napi_close_handle_scope(env, scope);
}

/* ---- functions for JavaScript */

static int duplicate(napi_env env, napi_value value) {
  int32_t given;
  int fd;

  if (napi_get_value_int32(env, value, &given) != napi_ok) {
    misuse(env, "not a descriptor");
    return -1;
  }
  fd = fcntl(given, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) throw_errno(env, "dup", errno);
  return fd;
}

/* offer(socket, bytes, callback) → end: makes rings of so many bytes and sends them */
static napi_value offer(napi_env env, napi_callback_info info) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec part = {(void *)hello, sizeof hello};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr *c = CMSG_FIRSTHDR(&message);
  struct ring *ring;
  struct end *e;
  napi_value external;
  uint32_t size;
  int fd, memory, err;
  ARGUMENTS(3)

  OK(napi_get_value_uint32(env, argument[1], &size));
  if (size < LEAST_RING || size > MOST_RING || (size & (size - 1)) != 0) {
    napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "no possible size of a ring");
    return NULL;
  }
  fd = duplicate(env, argument[0]);
  if (fd < 0) return NULL;
  err = ring_make(&ring, size, &memory);
  if (err != 0) {
    close(fd);
    return throw_errno(env, "ring_make", err);
  }
  memset(&control, 0, sizeof control);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof memory);
  memcpy(CMSG_DATA(c), &memory, sizeof memory);
  if (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof hello) err = errno == 0 ? EPIPE : errno;
  close(memory);
  external = NULL;
  if (err != 0) {
    close(fd);
    throw_errno(env, "sendmsg", err);
  } else {
    external = make_end(env, fd, argument[2], &e);
  }
  if (external == NULL)
    ring_let_go(ring);
  else
    e->ring = ring;
  return external;
}

/* ask(socket, callback) → end: sends the question; start() waits for the answer */
static napi_value ask(napi_env env, napi_callback_info info) {
  struct end *e;
  napi_value external;
  int fd;
  ARGUMENTS(2)

  fd = duplicate(env, argument[0]);
  if (fd < 0) return NULL;
  if (send(fd, hello, sizeof hello, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof hello) {
    const int err = errno;
    close(fd);
    return throw_errno(env, "send", err);
  }
  external = make_end(env, fd, argument[1], &e);
  if (external != NULL) e->asking = true;
  return external;
}

/* start(end): the callback is called from now on, and keeps the end alive */
static napi_value start(napi_env env, napi_callback_info info) {
  struct end *e;
  uint32_t count;
  int err;
  ARGUMENTS(1)

  e = end_of(env, argument[0], false);
  if (e == NULL) return NULL;
  if (e->closed) return throw_errno(env, "closed", EBADF);
  if (e->started) return NULL;
  err = uv_poll_start(e->poll, TT_UV_READABLE, on_poll);
  if (err != 0) return throw_errno(env, "uv_poll_start", -err);
  e->started = true;
  OK(napi_reference_ref(env, e->callback, &count));
  return NULL;
}

static napi_value close_it(napi_env env, napi_callback_info info) {
  struct end *e;
  ARGUMENTS(1)

  e = end_of(env, argument[0], false);
  if (e != NULL) close_end(e);
  return NULL;
}

static void on_memory_collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)data;
  ring_let_go(hint);
}

/* memory(end, sent) → an array buffer of both mappings of the ring that is sent, or received */
static napi_value memory_of(napi_env env, napi_callback_info info) {
  bool sent;
  napi_value result;
  ARGUMENTS(2)
  END(e, argument[0]);

  OK(napi_get_value_bool(env, argument[1], &sent));
  e->ring->holders++;
  if (napi_create_external_arraybuffer(env, sent ? e->ring->tx_data : e->ring->rx_data, 2 * (size_t)e->ring->size,
                                       on_memory_collected, e->ring, &result) != napi_ok) {
    ring_let_go(e->ring);
    misuse(env, "napi_create_external_arraybuffer");
    return NULL;
  }
  return result;
}

/* read(end, buffer, index, longest, state) → packets, or a fault; state[0]: of how many was stepped over */
static napi_value read_packets(napi_env env, napi_callback_info info) {
  void *into, *index, *state;
  size_t room, words, length;
  uint32_t longest;
  napi_value result;
  int count;
  ARGUMENTS(5)
  END(e, argument[0]);

  if (!bytes_of(env, argument[1], napi_uint8_array, &into, &room)) return NULL;
  if (!bytes_of(env, argument[2], napi_uint32_array, &index, &words)) return NULL;
  if (!bytes_of(env, argument[4], napi_uint32_array, &state, &length)) return NULL;
  OK(napi_get_value_uint32(env, argument[3], &longest));
  if (room < longest || words < 2 || length < 1 || longest < LEAST_LENGTH) {
    napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "too little room for a packet");
    return NULL;
  }
  count = ring_read(e->ring, into, room, index, (uint32_t)(words / 2), longest, state);
  if (count >= 0 && ring_give_back(e->ring)) ring_bell(e);
  OK(napi_create_int32(env, count, &result));
  return result;
}

/* look(end, index, bytes, longest, state) → as read, without a copy: offsets in memory(end, false), until giveBack() */
static napi_value look(napi_env env, napi_callback_info info) {
  void *index, *state;
  size_t words, length;
  uint32_t longest, bytes;
  napi_value result;
  ARGUMENTS(5)
  END(e, argument[0]);

  if (!bytes_of(env, argument[1], napi_uint32_array, &index, &words)) return NULL;
  if (!bytes_of(env, argument[4], napi_uint32_array, &state, &length)) return NULL;
  OK(napi_get_value_uint32(env, argument[2], &bytes));
  OK(napi_get_value_uint32(env, argument[3], &longest));
  if (words < 2 || length < 1 || bytes == 0 || longest < LEAST_LENGTH) {
    napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "no room for a packet");
    return NULL;
  }
  OK(napi_create_int32(env, ring_look(e->ring, index, (uint32_t)(words / 2), bytes, longest, state), &result));
  return result;
}

/* waiting(end) → bytes to be read, or a fault */
static napi_value waiting(napi_env env, napi_callback_info info) {
  napi_value result;
  ARGUMENTS(1)
  END(e, argument[0]);

  OK(napi_create_int32(env, ring_waiting(e->ring), &result));
  return result;
}

static napi_value give_back(napi_env env, napi_callback_info info) {
  ARGUMENTS(1)
  END(e, argument[0]);

  if (ring_give_back(e->ring)) ring_bell(e);
  return NULL;
}

static napi_value tail_or_fault(napi_env env, const struct end *e, bool fault) {
  napi_value result;

  if (fault)
    OK(napi_create_int32(env, -1, &result));
  else
    OK(napi_create_uint32(env, e->ring->tx_tail, &result));
  return result;
}

/* publish(end, head) → the other side's tail, or -1: it is impossible */
static napi_value publish(napi_env env, napi_callback_info info) {
  uint32_t head;
  bool fault;
  ARGUMENTS(2)
  END(e, argument[0]);

  OK(napi_get_value_uint32(env, argument[1], &head));
  if (head - e->ring->tx_tail > e->ring->size || head - e->ring->tx_head > e->ring->size) {
    napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "more than the ring holds");
    return NULL;
  }
  if (ring_publish(e->ring, head, &fault)) ring_bell(e);
  return tail_or_fault(env, e, fault);
}

/* wantRoom(end) → as publish; a bell will come when half of the ring is free, if it is not by now */
static napi_value want_room(napi_env env, napi_callback_info info) {
  bool fault;
  ARGUMENTS(1)
  END(e, argument[0]);

  ring_want_room(e->ring, &fault);
  return tail_or_fault(env, e, fault);
}

static napi_value init(napi_env env, napi_value exports) {
  static const struct {
    const char *name;
    napi_callback function;
  } functions[] = {
      {"offer", offer},        {"ask", ask},   {"start", start},        {"close", close_it},    {"memory", memory_of},
      {"read", read_packets},  {"look", look}, {"giveBack", give_back}, {"publish", publish},   {"wantRoom", want_room},
      {"waiting", waiting},
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

NAPI_MODULE(ring, init)
