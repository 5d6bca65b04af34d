/*
 * A device as the addon knows it: an external that owns a descriptor, a control socket and one poll handle in the event loop.
 *
 * Life of a device
 *   open/wrap  the poll handle is initialised, idle, and does not keep the loop alive; the callback is referenced weakly
 *   polling    while reading, or while a partial write waits for room: callback and buffers are referenced strongly
 *   closed     by close(), by the finalizer when the JavaScript side was collected, or by the environment's cleanup
 *              (process or worker end), whichever comes first; descriptors are closed at once, the poll handle's memory
 *              goes in the loop's close phase, the struct when both that and the finalizer are through
 *
 * device.c has this life, reader.c what the poll wakes, writer.c what JavaScript sends, shortcuts.c what passes from one device
 * to another without JavaScript, join.c what does so in one write, interface.c the network interface behind a device, addon.c opens devices and exports it all.
 */
#ifndef TAP_TUN_DEVICE_H
#define TAP_TUN_DEVICE_H

#include "errors.h"
#include "uv-poll.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Room that one read may need: vnet header, Ethernet header with two tags, 64 KiB of IP, rounded up. Also in src/native.ts. */
#define SLOT 65664u

enum counter {
  RX_FRAMES,
  RX_BYTES,
  RX_BATCHES,
  RX_ERRORS,
  TX_FRAMES,
  TX_BYTES,
  TX_REJECTED,
  TX_DROPPED,
  TX_WAITS,
  RX_DROPPED,
  RX_SHORT, /* received and passed on by a shortcut; also in RX_FRAMES */
  RX_SHORT_BYTES,
  TX_SHORT, /* sent by a shortcut; also in TX_FRAMES, or in TX_REJECTED or TX_DROPPED */
  TX_SHORT_BYTES,
  COUNTERS
};

/* Frames start at multiples of this in a batch buffer: with a 10-byte vnet header the IP header is 8-byte aligned. */
#define ALIGN 8u

struct shortcut;
struct train;

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
  struct device *next, **link; /* list of this thread's open devices */
  struct shortcut *shortcuts; /* a table, or NULL before the first one */
  uint32_t generation;        /* of the shortcuts that hold; never 0 */
  struct train *train;        /* datagrams that this device has read and that are to leave together; NULL before the first */
  bool refuses_trains;        /* the kernel behind this device does not know such packets */
  double counters[COUNTERS];
};

/* ---- device.c ---- */

/* Takes over the descriptors, which are closed when it fails. The external, or NULL with an exception pending. */
napi_value adopt(napi_env env, int fd, int ctl, int ifindex, napi_value callback);
void close_device(struct device *d);
/* First of this thread's, an environment's, open devices. */
struct device *open_devices(void);
/* Makes the poll handle wait for what the device wants now. 0 or a negative errno. */
int arm(struct device *d);
/* The device of an argument, or NULL with an exception pending. */
struct device *device_of(napi_env env, napi_value value, bool must_be_open);
/* Data and length of a typed array of that kind, or false with an exception pending. */
bool bytes_of(napi_env env, napi_value value, napi_typedarray_type wanted, void **data, size_t *length);

#define MAX_ARGUMENTS 7
#define ARGUMENTS(wanted)                                                          \
  napi_value argument[MAX_ARGUMENTS];                                              \
  size_t given = MAX_ARGUMENTS;                                                    \
  OK(napi_get_cb_info(env, info, &given, argument, NULL, NULL));                   \
  if (given < (wanted)) {                                                          \
    napi_throw_type_error(env, "ERR_MISSING_ARGS", "too few arguments");           \
    return NULL;                                                                   \
  }
#define DEVICE(name, argument, must_be_open)                    \
  struct device *name = device_of(env, argument, must_be_open); \
  if (name == NULL) return NULL

/* ---- reader.c ---- */

void on_poll(tt_uv_handle *handle, int status, int events);

/* ---- writer.c ---- */

enum write_result { TAKEN, FULL, BROKEN };

/* Writes and counts one frame. Frames that the kernel refuses are taken. */
enum write_result write_frame(struct device *d, const uint8_t *data, size_t length);

/* ---- shortcuts.c ---- */

/* The shortcut that a frame which `from` has just read takes; NULL: the frame is JavaScript's. */
const struct shortcut *shortcut_of(struct device *from, const uint8_t *data, size_t length);
/* Writes the frame to where its shortcut leads. That device, or NULL: not taken, the frame is JavaScript's. */
struct device *pass_on(struct device *from, const struct shortcut *s, const uint8_t *data, size_t length);
/* The device to which the frame may go in a train, or NULL. */
struct device *train_to(const struct shortcut *s);
/* The device is being closed: no shortcut leads from it or to it any more. */
void leave_shortcuts(struct device *d);

/* ---- join.c ---- */

/* Begins a train with a frame that has just been read and takes the shortcut. False: it cannot be in one. There is no other train. */
bool begin_train(struct device *from, const struct shortcut *s, const uint8_t *frame, size_t length);
/* Adds the frame to the train. False: there is none, or this is not its next datagram. */
bool continue_train(struct device *from, const struct shortcut *s, const uint8_t *frame, size_t length);
bool has_train(const struct device *from);
/* Nothing can be added. */
bool train_is_full(const struct device *from);
/* Writes the train. The device that has it, or NULL: not taken, the train is still there and has to be unpacked. */
struct device *send_train(struct device *from);
/* Puts the datagrams of the train into a batch, behind *used, as they were read: at most SLOT bytes. How many. */
uint32_t unpack_train(struct device *from, uint8_t *data, size_t *used, uint32_t *index);

/* ---- functions for JavaScript ---- */

napi_value close_it(napi_env env, napi_callback_info info);
napi_value start(napi_env env, napi_callback_info info);
napi_value stop(napi_env env, napi_callback_info info);
napi_value reference(napi_env env, napi_callback_info info);
napi_value counters(napi_env env, napi_callback_info info);
napi_value descriptor(napi_env env, napi_callback_info info);
napi_value write_many(napi_env env, napi_callback_info info);
napi_value write_one(napi_env env, napi_callback_info info);
napi_value add_shortcut(napi_env env, napi_callback_info info);
napi_value forget_shortcuts(napi_env env, napi_callback_info info);
napi_value get(napi_env env, napi_callback_info info);
napi_value set(napi_env env, napi_callback_info info);
napi_value name(napi_env env, napi_callback_info info);
napi_value mac(napi_env env, napi_callback_info info);
napi_value set_ipv4(napi_env env, napi_callback_info info);
napi_value set_persist(napi_env env, napi_callback_info info);

#endif
