#include "values.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors */

napi_value throw_problem(napi_env env, const problem *p) {
  if (p->kind == PROBLEM_TYPE) napi_throw_type_error(env, NULL, p->text);
  else if (p->kind == PROBLEM_RANGE) napi_throw_range_error(env, NULL, p->text);
  else napi_throw_error(env, NULL, p->text);
  return NULL;
}

napi_value new_error(napi_env env, const char *text) {
  napi_value message, error;
  if (napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &message) != napi_ok) return NULL;
  return napi_create_error(env, NULL, message, &error) == napi_ok ? error : NULL;
}

/* ---- from JavaScript */

bool is_type(napi_env env, napi_value v, napi_valuetype wanted) {
  napi_valuetype type;
  return napi_typeof(env, v, &type) == napi_ok && type == wanted;
}

bool get_integer(napi_env env, napi_value v, const char *name, int64_t least, int64_t *out, problem *p) {
  double d;
  if (napi_get_value_double(env, v, &d) != napi_ok) return refuse(p, PROBLEM_TYPE, "%s is no number", name);
  if (d != floor(d) || d < (double)least || d > 9007199254740991.0) {
    return refuse(p, PROBLEM_RANGE, "%s is %.17g, expected a whole number of at least %lld", name, d, (long long)least);
  }
  *out = (int64_t)d;
  return true;
}

bool get_boolean(napi_env env, napi_value v, const char *name, bool *out, problem *p) {
  return napi_get_value_bool(env, v, out) == napi_ok || refuse(p, PROBLEM_TYPE, "%s is no boolean", name);
}

/* A string of any length, to be freed. */
char *get_string(napi_env env, napi_value v, const char *name, problem *p) {
  size_t length;
  if (napi_get_value_string_utf8(env, v, NULL, 0, &length) != napi_ok) {
    refuse(p, PROBLEM_TYPE, "%s is no string", name);
    return NULL;
  }
  char *text = malloc(length + 1);
  if (text == NULL) {
    refuse(p, PROBLEM_MEMORY, "the system gave no %zu bytes of memory", length + 1);
    return NULL;
  }
  napi_get_value_string_utf8(env, v, text, length + 1, &length);
  if (strlen(text) == length) return text;
  refuse(p, PROBLEM_RANGE, "%s contains a character 0", name);
  free(text);
  return NULL;
}

bool get_field(napi_env env, napi_value object, const char *name, napi_value *out, problem *p) {
  if (!is_type(env, object, napi_object)) return refuse(p, PROBLEM_TYPE, "expected an object with %s", name);
  if (napi_get_named_property(env, object, name, out) == napi_ok) return true;
  return refuse(p, PROBLEM_TYPE, "%s cannot be read", name);
}

bool get_integer_field(napi_env env, napi_value object, const char *name, int64_t least, int64_t *out,
                              problem *p) {
  napi_value v;
  return get_field(env, object, name, &v, p) && get_integer(env, v, name, least, out, p);
}

/* The elements of an array, at most `most`; their number, or −1. */
int get_array(napi_env env, napi_value v, const char *name, int most, napi_value *elements, problem *p) {
  bool is_array = false;
  uint32_t length = 0;
  napi_is_array(env, v, &is_array);
  if (!is_array || napi_get_array_length(env, v, &length) != napi_ok) {
    refuse(p, PROBLEM_TYPE, "%s is no array", name);
    return -1;
  }
  if (length < 1 || length > (uint32_t)most) {
    refuse(p, PROBLEM_RANGE, "%s has %u elements, expected 1 to %d", name, length, most);
    return -1;
  }
  for (uint32_t i = 0; i < length; i++) {
    if (napi_get_element(env, v, i, &elements[i]) == napi_ok) continue;
    refuse(p, PROBLEM_TYPE, "%s cannot be read", name);
    return -1;
  }
  return (int)length;
}

bool get_array_bytes(napi_env env, napi_value v, bytes *out, problem *p) {
  napi_typedarray_type type;
  size_t length;
  void *data;
  if (napi_get_typedarray_info(env, v, &type, &length, &data, NULL, NULL) != napi_ok || type != napi_uint8_array) {
    return refuse(p, PROBLEM_TYPE, "bytes are neither a Uint8Array nor a part of a map");
  }
  *out = (bytes){.map = -1, .length = (int64_t)length, .data = data};
  return true;
}

/* Fields of objects may be functions, which could take an array's bytes away: those are looked up last. */
bool get_bytes(napi_env env, int count, const napi_value *values, bytes *out, problem *p) {
  bool typed[MAX_PARTS] = {false};
  for (int i = 0; i < count; i++) {
    napi_is_typedarray(env, values[i], &typed[i]);
    if (typed[i]) continue;
    out[i] = (bytes){.data = NULL};
    if (!get_integer_field(env, values[i], "map", 0, &out[i].map, p) ||
        !get_integer_field(env, values[i], "begin", 0, &out[i].begin, p) ||
        !get_integer_field(env, values[i], "length", 0, &out[i].length, p)) {
      return false;
    }
  }
  for (int i = 0; i < count; i++) {
    if (typed[i] && !get_array_bytes(env, values[i], &out[i], p)) return false;
  }
  return true;
}

bool get_type(napi_env env, napi_value v, number_type *type, problem *p) {
  char *name = get_string(env, v, "dataType", p);
  if (name == NULL) return false;
  bool f32 = strcmp(name, "F32") == 0, q8 = strcmp(name, "Q8") == 0;
  bool known = f32 || q8 || strcmp(name, "BF16") == 0;
  *type = f32 ? TYPE_F32 : q8 ? TYPE_Q8 : TYPE_BF16;
  if (!known) refuse(p, PROBLEM_RANGE, "dataType is %.40s, expected F32, BF16 or Q8", name);
  free(name);
  return known;
}

/* A copy of the words: those of a shared array could change while they are checked. */
double *get_words(napi_env env, napi_value v, size_t *count, problem *p) {
  napi_typedarray_type type;
  void *data;
  bool typed = false;
  napi_is_typedarray(env, v, &typed);
  if (!typed || napi_get_typedarray_info(env, v, &type, count, &data, NULL, NULL) != napi_ok ||
      type != napi_float64_array) {
    refuse(p, PROBLEM_TYPE, "the program is no Float64Array");
    return NULL;
  }
  double *words = malloc(*count * sizeof *words + 1);
  if (words == NULL) refuse(p, PROBLEM_MEMORY, "the system gave no memory for a program of %zu words", *count);
  else if (*count > 0) memcpy(words, data, *count * sizeof *words);
  return words;
}

/* ---- to JavaScript */

napi_value from_number(napi_env env, double number) {
  napi_value v = NULL;
  napi_create_double(env, number, &v);
  return v;
}

napi_value undefined(napi_env env) {
  napi_value v = NULL;
  napi_get_undefined(env, &v);
  return v;
}

void set_number(napi_env env, napi_value object, const char *name, double number) {
  napi_set_named_property(env, object, name, from_number(env, number));
}
