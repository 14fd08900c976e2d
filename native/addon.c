/*
 * The addon: src/device/native.node.ts, through Node-API. A device belongs to one JavaScript environment and nothing is
 * shared between environments, so that any number of threads of any number of programs may load the addon.
 */
#include "levels.h"
#include "program.h"
#include "values.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- devices of an environment */

/*
 * Lives until JavaScript has dropped its handle and the wake-up function is finalized, whichever is later. `device` is
 * NULL once it is closed.
 */
typedef struct owner {
  device *device;
  int holders;
  napi_threadsafe_function wake; /* tells the environment's thread that passes have ended */
  napi_ref handle;
  bool busy;                     /* passes are in flight, which keep the handle and the environment alive */
} owner;

/* What becomes of a pass in JavaScript: its task's note. Tasks that nobody waits for have none. */
typedef struct waiter {
  napi_deferred promise;
  napi_ref array;  /* the result, if it is a Float32Array */
  bool is_number;  /* the result is the task's; otherwise, without an array, undefined */
} waiter;

static const napi_type_tag device_tag = {0x7f0e5c9d21b84a36, 0xa1c3d7e85b6f4029};

/* ---- arguments */

static owner *get_owner(napi_env env, napi_value v, problem *p) {
  bool ours = false;
  void *data = NULL;
  if (is_type(env, v, napi_external)) napi_check_object_type_tag(env, v, &device_tag, &ours);
  if (!ours || napi_get_value_external(env, v, &data) != napi_ok) refuse(p, PROBLEM_TYPE, "this is no device");
  return ours ? data : NULL;
}

/* To be asked again after reading fields: JavaScript may have closed the device meanwhile. */
static bool still_open(const owner *o, problem *p) {
  return o->device != NULL || refuse(p, PROBLEM_STATE, "this device is closed");
}

enum { MAX_ARGUMENTS = 7 };

/* The arguments of a call; `count` of them are needed, and the first is an open device. */
static owner *arguments(napi_env env, napi_callback_info info, size_t count, napi_value *values, problem *p) {
  size_t given = MAX_ARGUMENTS;
  napi_get_cb_info(env, info, &given, values, NULL, NULL);
  if (given < count) {
    refuse(p, PROBLEM_TYPE, "%zu arguments, expected %zu", given, count);
    return NULL;
  }
  owner *o = get_owner(env, values[0], p);
  return o != NULL && still_open(o, p) ? o : NULL;
}

/* ---- passes */

/* On a thread of the pool. */
static void pass_ended(device *d) {
  const owner *o = d->owner;
  napi_call_threadsafe_function(o->wake, NULL, napi_tsfn_nonblocking);
}

static void update_busy(napi_env env, owner *o) {
  bool busy = o->device->first != NULL;
  if (busy == o->busy) return;
  o->busy = busy;
  uint32_t count;
  if (busy) {
    napi_reference_ref(env, o->handle, &count);
    napi_ref_threadsafe_function(env, o->wake);
  } else {
    napi_unref_threadsafe_function(env, o->wake);
    napi_reference_unref(env, o->handle, &count);
  }
}

static napi_value result_of(napi_env env, const waiter *w, const task *t) {
  napi_value array = NULL;
  if (w->is_number) return from_number(env, t->result);
  if (w->array != NULL) napi_get_reference_value(env, w->array, &array);
  return array != NULL ? array : undefined(env);
}

/* Settles the promise of a pass. Where JavaScript is being terminated the calls fail, and nobody is left to hear. */
static void settle(napi_env env, task *t) {
  waiter *w = t->note;
  pass_outcome outcome = t->pass.outcome;
  if (outcome == PASS_DONE && t->finish != NULL && !t->finish(t)) outcome = PASS_FAILED;
  if (w != NULL) {
    if (outcome == PASS_FAILED) {
      const char *reason = t->failure != NULL ? t->failure : "the system gave no memory for what a pass needs";
      napi_reject_deferred(env, w->promise, new_error(env, reason));
    } else {
      napi_resolve_deferred(env, w->promise, outcome == PASS_DONE ? result_of(env, w, t) : undefined(env));
    }
    if (w->array != NULL) napi_delete_reference(env, w->array);
  }
  task_over(t);
}

/* Without an environment it is being torn down, and on_environment_end has seen to everything. */
static void on_wake(napi_env env, napi_value function, void *context, void *data) {
  (void)function, (void)data;
  owner *o = context;
  if (env == NULL || o->device == NULL) return;
  for (task *t = o->device->first, *after; t != NULL; t = after) {
    after = t->after;
    if (atomic_load(&t->ended)) settle(env, t);
  }
  update_busy(env, o);
}

/* Starts a task, whose result may be an array to be filled; returns what JavaScript gets for it. */
static napi_value start(napi_env env, owner *o, task *t, bool is_number, napi_value array, problem *p) {
  napi_value object, done;
  waiter *w = calloc(1, sizeof *w);
  if (w == NULL) {
    task_over(t);
    refuse(p, PROBLEM_MEMORY, "the system gave no memory for a pass");
    return throw_problem(env, p);
  }
  t->note = w;
  w->is_number = is_number;
  if (napi_create_object(env, &object) != napi_ok || napi_create_promise(env, &w->promise, &done) != napi_ok ||
      (array != NULL && napi_create_reference(env, array, 1, &w->array) != napi_ok)) {
    task_over(t);
    return NULL;
  }
  task_start(t);
  update_busy(env, o);
  set_number(env, object, "pass", (double)t->id);
  napi_set_named_property(env, object, "done", done);
  return object;
}

static napi_value start_or_throw(napi_env env, owner *o, task *t, bool is_number, problem *p) {
  return t != NULL ? start(env, o, t, is_number, NULL, p) : throw_problem(env, p);
}

/* ---- opening and closing */

static void release_owner(owner *o) {
  if (--o->holders == 0) free(o);
}

static void on_wake_finalized(napi_env env, void *data, void *context) {
  (void)env, (void)data;
  release_owner(context);
}

static void shut(owner *o) {
  device *d = o->device;
  o->device = NULL;
  device_close(d);
  napi_release_threadsafe_function(o->wake, napi_tsfn_abort);
}

/* The environment ends, by itself or by terminate(): promises and references go with it, untouched. */
static void on_environment_end(void *data) { shut(data); }

static void on_handle_dropped(napi_env env, void *data, void *hint) {
  (void)hint;
  owner *o = data;
  if (o->device != NULL) {
    napi_remove_env_cleanup_hook(env, on_environment_end, o);
    shut(o);
  }
  napi_delete_reference(env, o->handle);
  release_owner(o);
}

static const kernels *find_level(const char *name, problem *p) {
  const kernels *levels[MAX_LEVELS];
  char list[256] = "";
  int n = find_levels(levels);
  for (int i = 0; i < n; i++) {
    if (strcmp(levels[i]->level, name) == 0) return levels[i];
    size_t length = strlen(list);
    snprintf(list + length, sizeof list - length, "%s%s", i > 0 ? ", " : "", levels[i]->level);
  }
  refuse(p, PROBLEM_RANGE, "there is no level %.40s here, but %s", name, list);
  return NULL;
}

static bool get_open_options(napi_env env, napi_value v, const kernels **k, int64_t *threads, bool *pin, problem *p) {
  napi_value level, pinned;
  if (!get_field(env, v, "level", &level, p) || !get_integer_field(env, v, "threads", 0, threads, p) ||
      !get_field(env, v, "pin", &pinned, p) || !get_boolean(env, pinned, "pin", pin, p)) {
    return false;
  }
  if (*threads > MAX_THREADS) {
    return refuse(p, PROBLEM_RANGE, "threads is %lld, expected 1 to %d, or 0 for all", (long long)*threads,
                  MAX_THREADS);
  }
  char *name = get_string(env, level, "level", p);
  *k = name != NULL ? find_level(name, p) : NULL;
  free(name);
  return *k != NULL;
}

static bool create_wake(napi_env env, owner *o) {
  napi_value name;
  if (napi_create_string_utf8(env, "tutti", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_threadsafe_function(env, NULL, NULL, name, 0, 1, NULL, on_wake_finalized, o, on_wake, &o->wake) !=
          napi_ok) {
    return false;
  }
  o->holders++;
  napi_unref_threadsafe_function(env, o->wake);
  return true;
}

static napi_value open_device(napi_env env, napi_callback_info info) {
  problem p = {.kind = PROBLEM_NONE};
  size_t given = 1;
  napi_value options, handle;
  const kernels *k = NULL;
  int64_t threads = 0;
  bool pin;
  napi_get_cb_info(env, info, &given, &options, NULL, NULL);
  if (!get_open_options(env, options, &k, &threads, &pin, &p)) return throw_problem(env, &p);
  owner *o = calloc(1, sizeof *o);
  device *d = o != NULL ? device_open(k, (int)threads, pin, &p) : NULL;
  if (d == NULL) {
    free(o);
    if (o == NULL) refuse(&p, PROBLEM_MEMORY, "the system gave no memory for a device");
    return throw_problem(env, &p);
  }
  if (!create_wake(env, o)) {
    device_close(d);
    free(o);
    return NULL;
  }
  if (napi_create_external(env, o, on_handle_dropped, NULL, &handle) != napi_ok) {
    device_close(d);
    napi_release_threadsafe_function(o->wake, napi_tsfn_abort);
    return NULL;
  }
  o->holders++;
  o->device = d;
  d->owner = o;
  d->ended = pass_ended;
  /* Hooks run in the reverse order of their addition: this one while the wake-up function still is. */
  napi_add_env_cleanup_hook(env, on_environment_end, o);
  napi_type_tag_object(env, handle, &device_tag);
  napi_create_reference(env, handle, 0, &o->handle);
  return handle;
}

static napi_value close_device(napi_env env, napi_callback_info info) {
  problem p = {.kind = PROBLEM_NONE};
  size_t given = 1;
  napi_value handle;
  napi_get_cb_info(env, info, &given, &handle, NULL, NULL);
  owner *o = get_owner(env, handle, &p);
  if (o == NULL) return throw_problem(env, &p);
  if (o->device == NULL) return undefined(env);
  device_halt(o->device);
  while (o->device->first != NULL) settle(env, o->device->first);
  update_busy(env, o);
  napi_remove_env_cleanup_hook(env, on_environment_end, o);
  shut(o);
  return undefined(env);
}

/* ---- functions: each takes its arguments, asks device.c, and throws what that refuses */

#define ARGUMENTS(count)                                                                                             \
  problem p = {.kind = PROBLEM_NONE};                                                                                \
  napi_value v[MAX_ARGUMENTS];                                                                                       \
  owner *o = arguments(env, info, count, v, &p);                                                                     \
  if (o == NULL) return throw_problem(env, &p);                                                                      \
  device *d = o->device

#define INTEGER(name, index)                                                                                         \
  int64_t name = 0;                                                                                                  \
  if (!get_integer(env, v[index], #name, 0, &name, &p)) return throw_problem(env, &p)

static napi_value levels(napi_env env, napi_callback_info info) {
  (void)info;
  const kernels *found[MAX_LEVELS];
  int n = find_levels(found);
  napi_value list;
  if (napi_create_array(env, &list) != napi_ok) return NULL;
  for (int i = 0; i < n; i++) {
    napi_value name;
    if (napi_create_string_utf8(env, found[i]->level, NAPI_AUTO_LENGTH, &name) != napi_ok) return NULL;
    napi_set_element(env, list, (uint32_t)i, name);
  }
  return list;
}

static napi_value describe(napi_env env, napi_callback_info info) {
  ARGUMENTS(1);
  napi_value object, level, pinned;
  int64_t private_bytes, huge_bytes;
  if (napi_create_object(env, &object) != napi_ok) return NULL;
  napi_create_string_utf8(env, d->kernels->level, NAPI_AUTO_LENGTH, &level);
  napi_set_named_property(env, object, "level", level);
  set_number(env, object, "threads", gang_size(d->gang));
  napi_get_boolean(env, d->pinned, &pinned);
  napi_set_named_property(env, object, "pinned", pinned);
  memory_account(d->memory, &private_bytes, &huge_bytes);
  set_number(env, object, "hugeBytes", (double)huge_bytes);
  set_number(env, object, "privateBytes", (double)private_bytes);
  return object;
}

static napi_value map(napi_env env, napi_callback_info info) {
  ARGUMENTS(2);
  int64_t id, length;
  char *path = get_string(env, v[1], "path", &p);
  bool mapped = path != NULL && device_map(d, path, &id, &length, &p);
  free(path);
  napi_value object;
  if (!mapped) return throw_problem(env, &p);
  if (napi_create_object(env, &object) != napi_ok) return NULL;
  set_number(env, object, "map", (double)id);
  set_number(env, object, "length", (double)length);
  return object;
}

static napi_value populate(napi_env env, napi_callback_info info) {
  ARGUMENTS(4);
  INTEGER(map, 1);
  INTEGER(begin, 2);
  INTEGER(length, 3);
  return start_or_throw(env, o, device_populate(d, map, begin, length, &p), false, &p);
}

static napi_value sparse(napi_env env, napi_callback_info info) {
  ARGUMENTS(4);
  INTEGER(map, 1);
  INTEGER(begin, 2);
  INTEGER(length, 3);
  return device_sparse(d, map, begin, length, &p) ? undefined(env) : throw_problem(env, &p);
}

static napi_value new_matrix(napi_env env, napi_callback_info info) {
  ARGUMENTS(5);
  INTEGER(cols, 3);
  number_type type;
  napi_value row_values[MAX_PARTS], part_values[MAX_PARTS];
  int64_t rows[MAX_PARTS], id;
  bytes parts[MAX_PARTS];
  if (!get_type(env, v[1], &type, &p)) return throw_problem(env, &p);
  int n = get_array(env, v[2], "rows", MAX_PARTS, row_values, &p);
  int num_parts = n > 0 ? get_array(env, v[4], "parts", MAX_PARTS, part_values, &p) : -1;
  if (num_parts < 0) return throw_problem(env, &p);
  if (n != num_parts) {
    refuse(&p, PROBLEM_RANGE, "rows of %d parts, and %d parts", n, num_parts);
    return throw_problem(env, &p);
  }
  for (int i = 0; i < n; i++) {
    if (!get_integer(env, row_values[i], "rows", 1, &rows[i], &p)) return throw_problem(env, &p);
  }
  if (!get_bytes(env, n, part_values, parts, &p) || !still_open(o, &p)) return throw_problem(env, &p);
  if (!device_matrix(d, type, n, rows, cols, parts, &id, &p)) return throw_problem(env, &p);
  return from_number(env, (double)id);
}

static napi_value new_mxfp4(napi_env env, napi_callback_info info) {
  ARGUMENTS(6);
  INTEGER(experts, 1);
  INTEGER(rows, 2);
  INTEGER(cols, 3);
  bytes parts[2];
  int64_t id;
  if (!get_bytes(env, 2, &v[4], parts, &p) || !still_open(o, &p)) return throw_problem(env, &p);
  if (!device_mxfp4(d, experts, rows, cols, parts[0], parts[1], &id, &p)) return throw_problem(env, &p);
  return from_number(env, (double)id);
}

/* What takes a matrix and nothing else. */
static napi_value start_with_matrix(napi_env env, napi_callback_info info, task *(*start)(device *, int64_t, problem *)) {
  ARGUMENTS(2);
  INTEGER(matrix, 1);
  return start_or_throw(env, o, start(d, matrix, &p), true, &p);
}

static napi_value quantize(napi_env env, napi_callback_info info) {
  return start_with_matrix(env, info, device_quantize);
}

static napi_value checksum(napi_env env, napi_callback_info info) {
  return start_with_matrix(env, info, device_checksum);
}

static napi_value find_nan(napi_env env, napi_callback_info info) {
  return start_with_matrix(env, info, device_find_nan);
}

static napi_value read_codes(napi_env env, napi_callback_info info) {
  ARGUMENTS(4);
  INTEGER(matrix, 1);
  INTEGER(begin, 2);
  bytes to = {.data = NULL};
  bool typed = false;
  napi_is_typedarray(env, v[3], &typed);
  if (!typed) refuse(&p, PROBLEM_TYPE, "codes are read into a Uint8Array");
  if (!typed || !get_array_bytes(env, v[3], &to, &p)) return throw_problem(env, &p);
  bool read = device_read_codes(d, matrix, begin, to.length, (uint8_t *)to.data, &p);
  return read ? undefined(env) : throw_problem(env, &p);
}

static napi_value release(napi_env env, napi_callback_info info) {
  ARGUMENTS(2);
  INTEGER(matrix, 1);
  return device_release(d, matrix, &p) ? undefined(env) : throw_problem(env, &p);
}

static napi_value page_bytes(napi_env env, napi_callback_info info) {
  ARGUMENTS(4);
  INTEGER(cache, 1);
  INTEGER(num_kv_heads, 2);
  INTEGER(head_dim, 3);
  int64_t size;
  if (!device_page_bytes(d, cache, num_kv_heads, head_dim, &size, &p)) return throw_problem(env, &p);
  return from_number(env, (double)size);
}

static napi_value new_page(napi_env env, napi_callback_info info) {
  ARGUMENTS(2);
  INTEGER(size, 1);
  int64_t id;
  return device_new_page(d, size, &id, &p) ? from_number(env, (double)id) : throw_problem(env, &p);
}

static napi_value free_page(napi_env env, napi_callback_info info) {
  ARGUMENTS(2);
  INTEGER(page, 1);
  return device_free_page(d, page, &p) ? undefined(env) : throw_problem(env, &p);
}

static napi_value copy_page(napi_env env, napi_callback_info info) {
  ARGUMENTS(3);
  INTEGER(from, 1);
  INTEGER(to, 2);
  if (!device_copy_page(d, from, to, &p)) return throw_problem(env, &p);
  update_busy(env, o);
  return undefined(env);
}

static bool get_tokens(napi_env env, const napi_value *v, page_tokens *t, problem *p) {
  bytes data;
  bool read = get_integer(env, v[1], "page", 0, &t->page, p) && get_integer(env, v[2], "cache", 0, &t->cache, p) &&
              get_integer(env, v[3], "num_kv_heads", 0, &t->num_kv_heads, p) &&
              get_integer(env, v[4], "head_dim", 0, &t->head_dim, p) &&
              get_integer(env, v[5], "begin", 0, &t->begin, p) && get_array_bytes(env, v[6], &data, p);
  if (!read) return false;
  t->length = data.length;
  t->data = (uint8_t *)data.data;
  return true;
}

static napi_value read_tokens(napi_env env, napi_callback_info info) {
  ARGUMENTS(7);
  page_tokens tokens;
  bool busy;
  napi_value done;
  if (!get_tokens(env, v, &tokens, &p) || !device_read_tokens(d, &tokens, &busy, &p)) return throw_problem(env, &p);
  napi_get_boolean(env, !busy, &done);
  return done;
}

static napi_value write_tokens(napi_env env, napi_callback_info info) {
  ARGUMENTS(7);
  page_tokens tokens;
  bool written = get_tokens(env, v, &tokens, &p) && device_write_tokens(d, &tokens, &p);
  return written ? undefined(env) : throw_problem(env, &p);
}

static napi_value submit(napi_env env, napi_callback_info info) {
  ARGUMENTS(5);
  INTEGER(arena_bytes, 2);
  INTEGER(result_offset, 3);
  INTEGER(result_length, 4);
  size_t num_words;
  bool urgent = false;
  if (!is_type(env, v[5], napi_undefined) && !get_boolean(env, v[5], "urgent", &urgent, &p)) {
    return throw_problem(env, &p);
  }
  double *words = get_words(env, v[1], &num_words, &p);
  task *t = NULL;
  if (words != NULL) {
    t = device_program(d, words, num_words, arena_bytes, result_offset, result_length, urgent, &p);
  }
  free(words);
  if (t == NULL) return throw_problem(env, &p);
  void *data;
  napi_value buffer, array;
  if (napi_create_arraybuffer(env, (size_t)result_length * sizeof(float), &data, &buffer) != napi_ok ||
      napi_create_typedarray(env, napi_float32_array, (size_t)result_length, buffer, 0, &array) != napi_ok) {
    task_over(t);
    return NULL;
  }
  task_set_result(t, data);
  return start(env, o, t, false, array, &p);
}

/* A pass of a device that was closed has ended. */
static napi_value stop(napi_env env, napi_callback_info info) {
  problem p = {.kind = PROBLEM_NONE};
  size_t given = 2;
  napi_value v[2];
  int64_t pass = 0;
  napi_get_cb_info(env, info, &given, v, NULL, NULL);
  owner *o = get_owner(env, v[0], &p);
  if (o == NULL || !get_integer(env, v[1], "pass", 1, &pass, &p)) return throw_problem(env, &p);
  if (o->device == NULL || device_stop(o->device, pass)) return undefined(env);
  refuse(&p, PROBLEM_RANGE, "there is no pass %lld", (long long)pass);
  return throw_problem(env, &p);
}

static napi_value read_memory(napi_env env, napi_callback_info info) {
  ARGUMENTS(2);
  int64_t map = -1, begin = 0, length = 0;
  bool huge = false, mapped = false;
  napi_value field;
  if (is_type(env, v[1], napi_object)) napi_has_named_property(env, v[1], "map", &mapped);
  bool read = get_integer_field(env, v[1], "length", 0, &length, &p);
  if (read && mapped) {
    read = get_integer_field(env, v[1], "map", 0, &map, &p) && get_integer_field(env, v[1], "begin", 0, &begin, &p);
  } else if (read) {
    read = get_field(env, v[1], "huge", &field, &p) && get_boolean(env, field, "huge", &huge, &p);
  }
  if (!read || !still_open(o, &p)) return throw_problem(env, &p);
  return start_or_throw(env, o, device_read_memory(d, map, begin, length, huge, &p), true, &p);
}

NAPI_MODULE_INIT() {
  static const napi_property_descriptor functions[] = {
#define FUNCTION(name, function) {name, NULL, function, NULL, NULL, NULL, napi_enumerable, NULL}
    FUNCTION("levels", levels),
    FUNCTION("open", open_device),
    FUNCTION("describe", describe),
    FUNCTION("map", map),
    FUNCTION("populate", populate),
    FUNCTION("sparse", sparse),
    FUNCTION("matrix", new_matrix),
    FUNCTION("mxfp4", new_mxfp4),
    FUNCTION("quantize", quantize),
    FUNCTION("checksum", checksum),
    FUNCTION("findNan", find_nan),
    FUNCTION("readCodes", read_codes),
    FUNCTION("release", release),
    FUNCTION("pageBytes", page_bytes),
    FUNCTION("newPage", new_page),
    FUNCTION("freePage", free_page),
    FUNCTION("copyPage", copy_page),
    FUNCTION("readTokens", read_tokens),
    FUNCTION("writeTokens", write_tokens),
    FUNCTION("submit", submit),
    FUNCTION("stop", stop),
    FUNCTION("readMemory", read_memory),
    FUNCTION("close", close_device),
  };
  napi_define_properties(env, exports, sizeof functions / sizeof functions[0], functions);
  return exports;
}
