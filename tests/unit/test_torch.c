/* Operators by their C++ names, and the overloads of native_functions.yaml. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/context/context_priv.h"
#include "stacksample/context.h"

static const char yaml[] =
    "# - func: not.This(\n"
    "- func: add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor\n"
    "  structured_delegate: add.out\n"
    "  variants: function, method\n"
    "- func: add_.Tensor(Tensor(a!) self, Tensor other) -> Tensor(a!)\n"
    "- func: __and__.Scalar(Tensor self, Scalar other) -> Tensor\n"
    "- func: sum.dim_IntList(Tensor self, int[1] dim) -> Tensor\n"
    "- func: index_select(Tensor self, int dim, Tensor index) -> Tensor\n"
    "  autogen: bernoulli.Tensor, bernoulli.Tensor_out\n"
    "- func: .odd(\n"
    "- func: odd.\n"
    "- func: last.one(Tensor self";

struct row {
  const char *name, *shown; /* NULL: no operator */
};

static void check_rows(const struct row *rows, size_t count, const struct ss_overloads *o)
{
  for (size_t i = 0; i < count; i++) {
    char buf[128] = "";
    bool found = ss_torch_operator(rows[i].name, o, buf, sizeof buf);
    if (found != (rows[i].shown != NULL))
      fail_msg("%s: %s", rows[i].name, found ? buf : "not found");
    if (found)
      assert_string_equal(buf, rows[i].shown);
  }
}

static void test_names(void **state)
{
  (void)state;
  static const struct row rows[] = {
      {"at::_ops::mm::call(at::Tensor const&, at::Tensor const&)", "aten::mm"},
      {"at::_ops::mm::redispatch(c10::DispatchKeySet, at::Tensor const&)", "aten::mm"},
      {"at::_ops::add_Tensor::call(at::Tensor const&)", "aten::add_Tensor"},
      {"at::_ops::mm::call(at::Tensor const&) [clone .cold]", "aten::mm"},
      {"torch::autograd::generated::MmBackward0::apply(std::vector<at::Tensor, "
       "std::allocator<at::Tensor> >&&)",
       "MmBackward0"},
      {"torch::autograd::AccumulateGrad::apply(std::vector<at::Tensor> &&)",
       "torch::autograd::AccumulateGrad"},
      {"torch::autograd::PyNode::apply(std::vector<at::Tensor> &&)",
       "torch::autograd::PyNode"},
      {"torch::autograd::Engine::evaluate_function(std::shared_ptr<X>&)",
       "autograd::engine::evaluate_function"},
      {"torch::autograd::Engine::thread_init(int)", NULL},
      {"torch::autograd::generated::MmBackward0::name() const", NULL},
      {"torch::autograd::generated::::apply(", NULL},
      {"at::_ops::mm::callx(at::Tensor const&)", NULL},
      {"at::_ops::mm::call", NULL},
      {"at::_ops::::call(at::Tensor)", NULL},
      {"at::_ops::", NULL},
      {"at::native::mm(at::Tensor const&)", NULL},
      {"void at::_ops::mm::call(at::Tensor const&)", NULL},
      {"", NULL},
  };
  check_rows(rows, sizeof rows / sizeof rows[0], NULL);
}

static void test_overloads(void **state)
{
  (void)state;
  static const struct row rows[] = {
      {"at::_ops::add_Tensor::call(", "aten::add"},
      {"at::_ops::add__Tensor::call(", "aten::add_"},
      {"at::_ops::__and___Scalar::call(", "aten::__and__"},
      {"at::_ops::sum_dim_IntList::redispatch(", "aten::sum"},
      {"at::_ops::index_select::call(", "aten::index_select"},
      {"at::_ops::bernoulli_Tensor_out::call(", "aten::bernoulli"},
      {"at::_ops::last_one::call(", "aten::last"},
      {"at::_ops::not_This::call(", "aten::not_This"},
      {"at::_ops::unknown_Tensor::call(", "aten::unknown_Tensor"},
      /* A node's name has no overload, though it may look like one. */
      {"torch::autograd::generated::add_Tensor::apply(", "add_Tensor"},
  };
  struct ss_overloads *o = ss_overloads_parse(yaml, sizeof yaml - 1);
  assert_non_null(o);
  check_rows(rows, sizeof rows / sizeof rows[0], o);
  ss_overloads_free(o);
  ss_overloads_free(NULL);
}

static void test_small_buffer(void **state)
{
  (void)state;
  char buf[9];
  assert_true(ss_torch_operator("at::_ops::mm::call(", NULL, buf, sizeof buf));
  assert_false(ss_torch_operator("at::_ops::mmm::call(", NULL, buf, sizeof buf));
  assert_false(ss_torch_operator("at::_ops::mm::call(", NULL, buf, 0));
}

static void test_every_prefix(void **state)
{
  (void)state;
  for (size_t len = 0; len < sizeof yaml; len++) {
    char *copy = malloc(len + 1);
    memcpy(copy, yaml, len);
    copy = realloc(copy, len ? len : 1); /* exact, for ASan */
    struct ss_overloads *o = ss_overloads_parse(copy, len);
    assert_non_null(o);
    ss_overloads_free(o);
    free(copy);
  }
}

/* The file of Debian's python3-torch, where it is installed. */
static void test_real_file(void **state)
{
  (void)state;
  static const char path[] = "/usr/lib/python3/dist-packages/torchgen/packaged/ATen/"
                             "native/native_functions.yaml";
  static const struct row rows[] = {
      {"at::_ops::add_Tensor::call(", "aten::add"},
      {"at::_ops::mul__Scalar::call(", "aten::mul_"},
      {"at::_ops::linalg_svd::call(", "aten::linalg_svd"},
      {"at::_ops::_fft_c2r_out::call(", "aten::_fft_c2r"},
      {"at::_ops::to_dtype_layout::call(", "aten::to"},
  };
  if (access(path, R_OK) != 0)
    skip();
  struct ss_overloads *o = ss_overloads_load(path);
  assert_non_null(o);
  check_rows(rows, sizeof rows / sizeof rows[0], o);
  ss_overloads_free(o);
  assert_null(ss_overloads_load("/nonexistent/native_functions.yaml"));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names),        cmocka_unit_test(test_overloads),
      cmocka_unit_test(test_small_buffer), cmocka_unit_test(test_every_prefix),
      cmocka_unit_test(test_real_file),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
