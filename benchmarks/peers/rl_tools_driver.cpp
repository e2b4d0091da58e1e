// Trains rl_tools' PPO on its Pendulum with the sizes of the recipe `standard`.
// Every line of stdin is a number of updates; the answer is the seconds that they took.

#include <rl_tools/operations/cpu_mux.h>

#include <rl_tools/nn/optimizers/adam/instance/operations_generic.h>
#include <rl_tools/nn/operations_cpu_mux.h>  // without it the layers do without BLAS

#include <rl_tools/rl/environments/pendulum/operations_generic.h>

#include <rl_tools/nn/layers/standardize/operations_generic.h>
#include <rl_tools/nn_models/mlp_unconditional_stddev/operations_generic.h>
#include <rl_tools/nn_models/sequential/operations_generic.h>
#include <rl_tools/nn/optimizers/adam/operations_generic.h>

#include <rl_tools/rl/algorithms/ppo/loop/core/config.h>
#include <rl_tools/rl/algorithms/ppo/loop/core/operations_generic.h>

#include <chrono>
#include <iostream>

namespace rlt = rl_tools;
namespace ppo = rlt::rl::algorithms::ppo;

using Device = rlt::devices::DEVICE_FACTORY<>;
using Index = Device::index_t;
using Numbers = rlt::numeric_types::Policy<float>;
using Random = Device::SPEC::RANDOM::ENGINE<>;
using Environment = rlt::rl::environments::Pendulum<rlt::rl::environments::pendulum::Specification<
    float, Index, rlt::rl::environments::pendulum::DefaultParameters<float>>>;

struct Adam : rlt::nn::optimizers::adam::DEFAULT_PARAMETERS_PYTORCH<Numbers> {
    static constexpr float ALPHA = 2.5e-4f;
    static constexpr float EPSILON = 1e-5f;
    // Their clipping is of every element; the norm's is not offered.
    static constexpr bool ENABLE_GRADIENT_CLIPPING = true;
    static constexpr float GRADIENT_CLIP_VALUE = 0.5f;
};

struct Standard : ppo::loop::core::DefaultParameters<Numbers, Index, Environment> {
    static constexpr Index N_ENVIRONMENTS = 4;
    static constexpr Index ON_POLICY_RUNNER_STEPS_PER_ENV = 128;
    static constexpr Index DATASET_SIZE = 512;
    static constexpr Index BATCH_SIZE = 128;
    static constexpr Index STEP_LIMIT = 976;
    static constexpr Index ACTOR_HIDDEN_DIM = 64;
    static constexpr Index CRITIC_HIDDEN_DIM = 64;
    static constexpr auto ACTOR_ACTIVATION_FUNCTION = rlt::nn::activation_functions::ActivationFunction::ACTIVATION;
    static constexpr auto CRITIC_ACTIVATION_FUNCTION = rlt::nn::activation_functions::ActivationFunction::ACTIVATION;
    using ACTOR_OPTIMIZER_PARAMETERS = Adam;
    using CRITIC_OPTIMIZER_PARAMETERS = Adam;
    struct PPO_PARAMETERS : ppo::DefaultParameters<Numbers, Index, BATCH_SIZE> {
        static constexpr Index N_EPOCHS = 4;
    };
};

using Config = ppo::loop::core::Config<Numbers, Index, Random, Environment, Standard>;

int main(int, char** arguments) {
    Device device;
    Config::State<Config> state;
    rlt::malloc(device, state);
    rlt::init(device, state, std::stoul(arguments[1]));
    for (Index updates; std::cin >> updates;) {
        const auto started = std::chrono::steady_clock::now();
        for (Index update = 0; update < updates; update++) rlt::step(device, state);
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - started;
        std::cout << passed.count() << std::endl;
    }
    rlt::free(device, state);
}
