/* The network interface behind a device, as JavaScript asks for it. */
#include "device.h"

#include <errno.h>
#include <string.h>

napi_value get(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  uint32_t what;
  int value;
  napi_value result;
  ARGUMENTS(2)
  DEVICE(d, argument[0], true);

  OK(napi_get_value_uint32(env, argument[1], &what));
  if (tt_get(d->ctl, d->ifindex, (enum tt_attribute)what, &value, &failure) < 0) return throw_failure(env, &failure);
  OK(napi_create_int32(env, value, &result));
  return result;
}

napi_value set(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  uint32_t what;
  int32_t value;
  ARGUMENTS(3)
  DEVICE(d, argument[0], true);

  OK(napi_get_value_uint32(env, argument[1], &what));
  OK(napi_get_value_int32(env, argument[2], &value));
  if (tt_set(d->ctl, d->ifindex, (enum tt_attribute)what, value, &failure) < 0) return throw_failure(env, &failure);
  return NULL;
}

napi_value name(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  char text[IFNAMSIZ];
  napi_value result;
  ARGUMENTS(1)
  DEVICE(d, argument[0], true);

  if (tt_name(d->ctl, d->ifindex, text, &failure) < 0) return throw_failure(env, &failure);
  OK(napi_create_string_utf8(env, text, strnlen(text, IFNAMSIZ), &result));
  return result;
}

/* mac(device, Uint8Array(6), set) */
napi_value mac(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  void *data;
  size_t length;
  bool write_it;
  ARGUMENTS(3)
  DEVICE(d, argument[0], true);

  if (!bytes_of(env, argument[1], napi_uint8_array, &data, &length)) return NULL;
  OK(napi_get_value_bool(env, argument[2], &write_it));
  if (length != 6) return throw_errno(env, "mac", EINVAL);
  if ((write_it ? tt_set_mac(d->ctl, d->ifindex, data, &failure) : tt_get_mac(d->ctl, d->ifindex, data, &failure)) < 0)
    return throw_failure(env, &failure);
  return NULL;
}

/* setIpv4(device, address, mask): numbers in host order */
napi_value set_ipv4(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  uint32_t address, mask;
  ARGUMENTS(3)
  DEVICE(d, argument[0], true);

  OK(napi_get_value_uint32(env, argument[1], &address));
  OK(napi_get_value_uint32(env, argument[2], &mask));
  if (tt_set_ipv4(d->ctl, d->ifindex, __builtin_bswap32(address), __builtin_bswap32(mask), &failure) < 0)
    return throw_failure(env, &failure);
  return NULL;
}

/* setPersist(device, boolean) */
napi_value set_persist(napi_env env, napi_callback_info info) {
  struct tt_failure failure;
  bool on;
  ARGUMENTS(2)
  DEVICE(d, argument[0], true);

  OK(napi_get_value_bool(env, argument[1], &on));
  if (tt_set_persist(d->fd, on, &failure) < 0) return throw_failure(env, &failure);
  return NULL;
}
