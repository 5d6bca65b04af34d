/* Node-API face: opens devices, and exports what the other files have; device.h says which. */
#define _GNU_SOURCE
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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
      {"probe", probe},            {"setPersist", set_persist},          {"addShortcut", add_shortcut},
      {"forgetShortcuts", forget_shortcuts},
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
