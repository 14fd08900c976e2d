/* Values of JavaScript: what a call is given, checked, and what it gives back. */
#ifndef TUTTI_VALUES_H
#define TUTTI_VALUES_H
#define NAPI_VERSION 8
#include "device.h"
#include <node_api.h>

/* Throws the problem; always NULL. */
napi_value throw_problem(napi_env env, const problem *p);
napi_value new_error(napi_env env, const char *text);

/* ---- from JavaScript: false, NULL or −1, and a problem, where a value is not what it should be */

enum { MAX_PARTS = 3 }; /* of a matrix */

bool is_type(napi_env env, napi_value v, napi_valuetype wanted);
bool get_integer(napi_env env, napi_value v, const char *name, int64_t least, int64_t *out, problem *p);
bool get_boolean(napi_env env, napi_value v, const char *name, bool *out, problem *p);
/* A string of any length, to be freed. */
char *get_string(napi_env env, napi_value v, const char *name, problem *p);
bool get_field(napi_env env, napi_value object, const char *name, napi_value *out, problem *p);
bool get_integer_field(napi_env env, napi_value object, const char *name, int64_t least, int64_t *out, problem *p);
/* The elements of an array, 1 to `most`; their number. */
int get_array(napi_env env, napi_value v, const char *name, int most, napi_value *elements, problem *p);
/* Of a Uint8Array. */
bool get_array_bytes(napi_env env, napi_value v, bytes *out, problem *p);
/* Uint8Arrays or parts of maps, MAX_PARTS at most. Fields are read, so that JavaScript may have run. */
bool get_bytes(napi_env env, int count, const napi_value *values, bytes *out, problem *p);
bool get_type(napi_env env, napi_value v, number_type *type, problem *p);
/* A copy of a program's words, to be freed. */
double *get_words(napi_env env, napi_value v, size_t *count, problem *p);

/* ---- to JavaScript */

napi_value from_number(napi_env env, double number);
napi_value undefined(napi_env env);
void set_number(napi_env env, napi_value object, const char *name, double number);

#endif
