/*
 * The part of libuv's ABI that this addon uses. node-api-headers carries no uv.h, and the functions are exported by every
 * node binary; libuv 1.x keeps handle type numbers and event bits. tt_init_loop() checks the number at load time.
 */
#ifndef TAP_TUN_UV_POLL_H
#define TAP_TUN_UV_POLL_H

#include <stddef.h>

struct uv_loop_s;

#define TT_UV_POLL 8 /* uv_handle_type UV_POLL */
#define TT_UV_READABLE 1
#define TT_UV_WRITABLE 2

/* A handle is opaque, allocated with uv_handle_size(TT_UV_POLL) bytes. */
typedef struct tt_uv_handle tt_uv_handle;
typedef void (*tt_uv_poll_cb)(tt_uv_handle *handle, int status, int events);
typedef void (*tt_uv_close_cb)(tt_uv_handle *handle);

extern size_t uv_handle_size(int type);
extern const char *uv_handle_type_name(int type);
extern void *uv_handle_get_data(const tt_uv_handle *handle);
extern void uv_handle_set_data(tt_uv_handle *handle, void *data);
extern int uv_poll_init(struct uv_loop_s *loop, tt_uv_handle *handle, int fd);
extern int uv_poll_start(tt_uv_handle *handle, int events, tt_uv_poll_cb cb);
extern int uv_poll_stop(tt_uv_handle *handle);
extern void uv_close(tt_uv_handle *handle, tt_uv_close_cb cb);
extern void uv_ref(tt_uv_handle *handle);
extern void uv_unref(tt_uv_handle *handle);

#endif
